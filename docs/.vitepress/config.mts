// The site of docs/ (`npm run docs`). The sidebar is made of the files that are there, so a new page needs
// no entry here. docs/api/ is generated (scripts/docs.mjs).
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { slug } from 'github-slugger';
import { type DefaultTheme, defineConfig, type MarkdownOptions } from 'vitepress';

const docs = path.resolve(import.meta.dirname, '..');

/** The folders, with their titles, in the order of the sidebar. */
const FOLDERS: [folder: string, title: string, collapsed: boolean][] = [
  ['guide', 'Guide', false],
  ['reference', 'Reference', true],
  ['api', 'API', true],
  ['operations', 'Operations', true],
  ['internals', 'Internals', true],
  ['decisions', 'Decisions', true],
];
/** Pages that come before the others of their folder. */
const FIRST = ['getting-started.md', 'architecture.md', 'index.md'];

/** The first heading of a page. */
function titleOf(file: string): string {
  const heading = /^# +(.+)$/m.exec(readFileSync(file, 'utf8'))?.[1];
  if (heading === undefined) throw new Error(`${file} has no heading`);
  return heading.replace(/[`\\]/g, '').trim();
}

/** The pages of a folder, those of folders inside it in a group each. */
function pagesOf(folder: string): DefaultTheme.SidebarItem[] {
  const at = path.join(docs, folder);
  const entries = readdirSync(at, { withFileTypes: true });
  const rank = (name: string) => (FIRST.includes(name) ? 0 : 1);
  const pages = entries
    .map(({ name }) => name)
    .filter((name) => name.endsWith('.md'))
    .sort((a, b) => rank(a) - rank(b) || a.localeCompare(b, 'en'))
    .map((name) => ({
      text: titleOf(path.join(at, name)),
      link: `/${folder === '' ? '' : `${folder}/`}${name.replace(/(?:index)?\.md$/, '')}`,
    }));
  const groups = entries
    .filter((entry) => folder !== '' && entry.isDirectory())
    .map(({ name }) => ({ text: name, collapsed: true, items: pagesOf(`${folder}/${name}`) }));
  return [...pages, ...groups];
}

/**
 * A link that leaves docs/ (to the source, to README.md) leads nowhere on the site: its text is left.
 * `npm run links` checks where it leads in the repository.
 */
const markdown: MarkdownOptions = {
  // The anchors that `npm run links` checks, and that repositories show.
  anchor: { slugify: slug },
  config(md) {
    md.core.ruler.push('links-within', (state) => {
      const page: string = state.env.path ?? '';
      for (const block of state.tokens) {
        let outside = false;
        for (const token of block.children ?? []) {
          if (token.type === 'link_open') {
            const href = token.attrGet('href') ?? '';
            const target = path.resolve(path.dirname(page), href.replace(/[#?].*$/, ''));
            outside = /^\.\.?\//.test(href) && !target.startsWith(docs + path.sep);
          }
          if (!outside) continue;
          if (token.type === 'link_open') {
            token.tag = 'span';
            token.attrs = [];
          } else if (token.type === 'link_close') {
            token.tag = 'span';
            outside = false;
          }
        }
      }
    });
  },
};

export default defineConfig({
  title: 'Rollcall',
  description: 'Presence, channel metadata and locks for realtime servers.',
  cleanUrls: true,
  markdown,
  themeConfig: {
    search: { provider: 'local' },
    outline: [2, 3],
    sidebar: [
      { text: 'Rollcall', items: pagesOf('') },
      ...FOLDERS.filter(([folder]) => existsSync(path.join(docs, folder))).map(
        ([folder, text, collapsed]) => ({ text, collapsed, items: pagesOf(folder) }),
      ),
    ],
  },
});
