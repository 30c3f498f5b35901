// `npm run docs`: serves the site of docs/ on this machine, and updates changed pages at once. `npm
// run docs:build` builds it into docs/.vitepress/dist/, and fails for a broken link. The pages of
// the API are first generated from index.d.ts.
import { installDocsTools, vitepress, writeApiPages } from './lib/docs.mjs';
import { main } from './lib/run.mjs';

main(async () => {
  const [command, ...args] = process.argv.slice(2);
  await installDocsTools();
  await writeApiPages();
  const { code } = await vitepress(command === '--build' ? 'build' : 'dev', ...args);
  return code;
});
