// Measures how long each script call of a node blocks the server. SLOWLOG reports wall time, which
// is too long when another process takes the processor from the server during a script. Therefore a
// proxy sends INFO before and after each call, in one piece, and removes the answers from the
// stream. They contain the call's exact wall time (as SLOWLOG does), and the server's CPU time over
// slightly more than the call. The duration of the call is at most the smaller of the two.
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';

export interface Call {
  sha: string;
  /** Wall time, as in SLOWLOG. */
  wallMicros: number;
  /** CPU time of the server's main thread, from just before to just after the call. */
  cpuMicros: number;
}

export interface Meter extends AsyncDisposable {
  readonly url: string;
  /** Script calls are measured while this is set. */
  measuring: boolean;
  readonly calls: Call[];
}

const INFO_CPU = command('INFO', 'cpu');
const INFO_COMMANDS = command('INFO', 'commandstats');

export async function startMeter(port: number): Promise<Meter> {
  const sockets = new Set<Socket>();
  const meter: Meter & { url: string } = {
    url: '',
    measuring: false,
    calls: [],
    [Symbol.asyncDispose]: async () => {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
  const server = createServer((node) => {
    const redis = connect(port, '127.0.0.1');
    for (const [socket, other] of [
      [node, redis],
      [redis, node],
    ] as const) {
      sockets.add(socket);
      socket.setNoDelay(true);
      socket.on('error', () => {});
      socket.on('close', () => {
        sockets.delete(socket);
        other.destroy();
      });
    }
    /** Consumers of the next answers; all other answers go to the node. */
    const takers: (((answer: string) => void) | undefined)[] = [];
    split(node, (request) => {
      const sha = meter.measuring && /^\*\d+\r\n\$7\r\nEVALSHA\r\n\$40\r\n(\w+)/.exec(request);
      if (!sha) {
        takers.push(undefined);
        redis.write(request, 'latin1');
        return;
      }
      const call: Call = { sha: sha[1] ?? '', wallMicros: 0, cpuMicros: 0 };
      takers.push(
        (answer) => {
          call.wallMicros -= scriptMicrosOf(answer);
        },
        (answer) => {
          call.cpuMicros -= cpuMicrosOf(answer);
        },
        undefined,
        (answer) => {
          call.cpuMicros += cpuMicrosOf(answer);
        },
        (answer) => {
          call.wallMicros += scriptMicrosOf(answer);
          meter.calls.push(call);
        },
      );
      redis.write(`${INFO_COMMANDS}${INFO_CPU}${request}${INFO_CPU}${INFO_COMMANDS}`, 'latin1');
    });
    split(redis, (answer) => {
      const take = takers.shift();
      if (take) take(answer);
      else node.write(answer, 'latin1');
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  meter.url = `redis://127.0.0.1:${typeof address === 'object' ? address?.port : ''}`;
  return meter;
}

function command(...words: string[]): string {
  return `*${words.length}\r\n${words.map((word) => `$${word.length}\r\n${word}\r\n`).join('')}`;
}

function field(text: string, pattern: RegExp): number {
  return Number(pattern.exec(text)?.[1] ?? 0);
}

function cpuMicrosOf(info: string): number {
  // Before Redis 7 only the sum over all threads is available.
  const of = (kind: string) =>
    field(info, new RegExp(`used_cpu_${kind}_main_thread:([\\d.]+)`)) ||
    field(info, new RegExp(`used_cpu_${kind}:([\\d.]+)`));
  return (of('user') + of('sys')) * 1e6;
}

function scriptMicrosOf(info: string): number {
  return field(info, /cmdstat_evalsha:calls=\d+,usec=(\d+)/);
}

/** Emits the data of a socket request by request, or answer by answer. */
function split(socket: Socket, each: (text: string) => void): void {
  let text = '';
  socket.setEncoding('latin1');
  socket.on('data', (piece: string) => {
    text += piece;
    let from = 0;
    for (let to = endOf(text, from); to !== undefined; to = endOf(text, from)) {
      each(text.slice(from, to));
      from = to;
    }
    text = text.slice(from);
  });
}

/** The end of the value that starts at `from`, in the protocol of Redis (RESP 2 and 3). */
function endOf(text: string, from: number): number | undefined {
  const line = text.indexOf('\r\n', from);
  if (line < 0) return undefined;
  const kind = text[from] ?? '';
  const size = Number(text.slice(from + 1, line));
  let at = line + 2;
  if ('$=!'.includes(kind)) {
    at += size < 0 ? 0 : size + 2;
    return at <= text.length ? at : undefined;
  }
  if (!'*~>%'.includes(kind)) return at;
  for (let left = kind === '%' ? 2 * size : size; left > 0; left--) {
    const end = endOf(text, at);
    if (end === undefined) return undefined;
    at = end;
  }
  return at;
}
