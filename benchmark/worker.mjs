// One measured process: opens one subject of one scenario and does what it is told over IPC. Only
// what is measured runs here. Ends when the orchestrating process lets go of it, or is gone.
import { findScenario } from './scenarios/index.mjs';

const { scenario, subject, ...env } = JSON.parse(process.argv[2]);
const shown = (error) => error?.stack ?? String(error);

process.on('disconnect', () => process.exit(0));
// Before anything can fail: the first answer says that the subject is ready.
try {
  const { subjects } = findScenario(scenario);
  const opened = await subjects[subject](env);
  process.on('message', async ({ number, method, args }) => {
    try {
      process.send({ number, value: await opened[method](args) });
    } catch (error) {
      process.send({ number, error: shown(error) });
    }
  });
  process.send({ number: 0 });
} catch (error) {
  process.send({ number: 0, error: shown(error) });
}
