// The area in which everybody's pointer is seen. Places are parts of its size (0 to 1), because
// windows differ.

import { colorIn, colorOf, element } from './ui.mjs';

const ARROW = 'M1 1 L1 16 L5 12.5 L7.600 18.5 L10.400 17.3 L7.800 11.500 L13 11.500 Z';

export class Stage {
  #area;
  #layer;
  #cursors = new Map();

  constructor(area, layer, moved) {
    this.#area = area;
    this.#layer = layer;
    area.addEventListener('pointermove', (event) => {
      const box = area.getBoundingClientRect();
      const part = (at, from, size) => Math.round((1000 * (at - from)) / size) / 1000;
      moved([part(event.clientX, box.left, box.width), part(event.clientY, box.top, box.height)]);
    });
    area.addEventListener('pointerleave', () => moved(null));
  }

  show(entries) {
    const seen = new Set();
    for (const { connId, userId, state } of entries) {
      if (!Array.isArray(state?.cursor)) continue;
      seen.add(connId);
      let cursor = this.#cursors.get(connId);
      if (cursor === undefined) {
        cursor = drawCursor(userId, colorIn(state) ?? colorOf(userId));
        this.#cursors.set(connId, cursor);
        this.#layer.append(cursor);
      }
      const [x, y] = state.cursor;
      const { clientWidth, clientHeight } = this.#area;
      cursor.style.transform = `translate(${x * clientWidth}px, ${y * clientHeight}px)`;
      cursor.classList.toggle('at-right', x > 0.7);
      cursor.lastChild.textContent = state.says ?? userId;
    }
    for (const [connId, cursor] of this.#cursors) {
      if (!seen.has(connId)) {
        cursor.remove();
        this.#cursors.delete(connId);
      }
    }
  }
}

function drawCursor(userId, color) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('width', '16');
  svg.setAttribute('height', '20');
  const arrow = document.createElementNS('http://www.w3.org/2000/svg', 'path');
  arrow.setAttribute('d', ARROW);
  svg.append(arrow);
  const cursor = element('div', { class: 'cursor', 'data-user': userId }, svg, element('span'));
  cursor.style.setProperty('--own', color);
  return cursor;
}
