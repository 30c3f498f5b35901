// Nodes as separate processes (`fixtures/node.mjs`), for tests that kill, stop or race them.
import type { ClientOptions, Metrics } from 'rollcall';
import { expect, onTestFinished } from 'vitest';
import { type Fixture, startFixture } from '../support/process.js';
import { within } from '../support/wait.js';

interface Message {
  ready?: number;
  done?: number;
  epochs?: number[];
  metrics?: Metrics;
  /** The code of the call's error. */
  failed?: string;
}

export interface Node extends Fixture<Message> {
  /** The node's clock when it was ready. */
  readonly clock: number;
  call(method: string, args?: object): Promise<Message>;
}

export async function startNode(
  options: ClientOptions,
  env: Record<string, string> = {},
): Promise<Node> {
  const child = startFixture<Message>('expiry/fixtures/node.mjs', {
    args: [JSON.stringify(options)],
    env,
  });
  onTestFinished(async () => {
    await child.kill();
  });
  const { ready = 0 } = await child.message((message) => message.ready !== undefined);
  let calls = 0;
  return Object.assign(child, {
    clock: ready,
    call: (method: string, args = {}) => {
      const number = ++calls;
      child.send({ method, number, ...args });
      return child.message((message) => message.done === number);
    },
  });
}

export async function endAll(...nodes: Node[]): Promise<void> {
  for (const node of nodes) node.send({ method: 'end' });
  for (const node of nodes) {
    const end = await within(node.exited, 10_000, 'the end of a node');
    expect(end, node.stderr).toEqual({ code: 0, signal: null });
  }
}
