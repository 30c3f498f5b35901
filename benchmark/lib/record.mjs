// A proxy between a Rollcall client and the server. It records script calls as raw bytes. Replaying
// them measures the server with exactly the arguments that the engine sends, independent of their
// format.
import { once } from 'node:events';
import { createConnection, createServer } from 'node:net';

const CALLS = new Set(['EVALSHA', 'EVAL', 'FCALL']);

export async function startRecorder(port) {
  let recording;
  const sockets = new Set();
  const proxy = createServer((client) => {
    const server = createConnection(port, '127.0.0.1');
    for (const socket of [client, server]) {
      sockets.add(socket);
      socket.setNoDelay(true);
      socket.on('error', () => socket.destroy());
      socket.on('close', () => {
        client.destroy();
        server.destroy();
      });
    }
    client.on('data', (chunk) => {
      recording?.push(chunk);
      server.write(chunk);
    });
    server.pipe(client);
  });
  proxy.listen(0, '127.0.0.1');
  await once(proxy, 'listening');
  return {
    port: proxy.address().port,
    /** The script calls that are sent while `work` runs, each as its bytes. */
    async record(work) {
      recording = [];
      await work();
      const bytes = Buffer.concat(recording);
      recording = undefined;
      return splitCommands(bytes).filter((command) =>
        CALLS.has(argumentsOf(command)[0].toString().toUpperCase()),
      );
    },
    stop() {
      proxy.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}

/** The arguments of one command (an array of bulk strings). */
export function argumentsOf(command) {
  const args = [];
  walk(command, 0, (start, end) => args.push(command.subarray(start, end)));
  return args;
}

function splitCommands(bytes) {
  const commands = [];
  for (let at = 0; at < bytes.length; ) {
    const end = walk(bytes, at, () => {});
    commands.push(bytes.subarray(at, end));
    at = end;
  }
  return commands;
}

/** Walks one command and calls `visit` for each argument; returns the end of the command. */
function walk(bytes, from, visit) {
  let at = from;
  const number = (type) => {
    const end = bytes.indexOf('\r\n', at);
    if (end < 0 || bytes[at] !== type.charCodeAt(0)) {
      throw new Error(`not a Redis command at byte ${at}`);
    }
    const value = Number(bytes.toString('latin1', at + 1, end));
    at = end + 2;
    return value;
  };
  for (let left = number('*'); left > 0; left--) {
    const length = number('$');
    visit(at, at + length);
    at += length + 2;
  }
  return at;
}
