// One measured process: opens one subject of one scenario and runs the methods that it receives
// over IPC. It does no other work. It ends when the main process disconnects or ends.
import { findScenario } from './scenarios/index.mjs';

const { scenario, subject, ...env } = JSON.parse(process.argv[2]);
const formatError = (error) => error?.stack ?? String(error);

process.on('disconnect', () => process.exit(0));
// Registered before anything can fail: the first answer reports that the subject is ready.
try {
  const { subjects } = findScenario(scenario);
  const opened = await subjects[subject](env);
  process.on('message', async ({ number, method, args }) => {
    try {
      process.send({ number, value: await opened[method](args) });
    } catch (error) {
      process.send({ number, error: formatError(error) });
    }
  });
  process.send({ number: 0 });
} catch (error) {
  process.send({ number: 0, error: formatError(error) });
}
