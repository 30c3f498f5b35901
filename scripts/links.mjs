// `npm run links`: fails for a link in README.md, CONTRIBUTING.md, CHANGELOG.md or docs/ whose file
// or heading does not exist. It needs no network: links to other sites are not checked. Arguments
// are files to check instead.
import { docsTool, installDocsTools } from './lib/docs.mjs';
import { listed } from './lib/paths.mjs';
import { main, run } from './lib/run.mjs';

main(async () => {
  await installDocsTools();
  const given = process.argv.slice(2);
  const files =
    given.length > 0 ? given : listed().filter((file) => /^([A-Z]+|docs\/.+)\.md$/.test(file));
  const plugin = `${docsTool('remark-validate-links', 'index.js')}=repository:false`;
  const options = ['--no-config', '--no-stdout', '--quiet', '--frail', '--use', plugin];
  const { code } = await run(process.execPath, [
    docsTool('remark-cli', 'cli.js'),
    ...options,
    ...files,
  ]);
  return code;
});
