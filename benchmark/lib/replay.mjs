// Sends pre-encoded commands over a raw socket, with so many in flight that the server never idles.
import { once } from 'node:events';
import { createConnection } from 'node:net';

/** The answer of `heartbeat_batch.lua` when every heartbeat of the batch succeeded. */
const FINE = Buffer.from('*0\r\n');

export class Replay {
  #socket;

  static async open({ port, db }) {
    const replay = new Replay();
    const socket = createConnection(port, '127.0.0.1');
    replay.#socket = socket;
    await once(socket, 'connect');
    socket.setNoDelay(true);
    socket.write(`SELECT ${db}\r\n`);
    const [answer] = await once(socket, 'data');
    if (answer.toString() !== '+OK\r\n') throw new Error(`SELECT: ${answer}`);
    return replay;
  }

  /**
   * Sends the commands repeatedly for `ms`; resolves to the number of answers. `whole`: ends after the last
   * command, for commands that leave the server as they found it only together.
   */
  run(commands, { ms, inFlight, whole = false }) {
    const socket = this.#socket;
    return new Promise((resolve, reject) => {
      const until = performance.now() + ms;
      let sent = 0;
      let answered = 0;
      let rest = Buffer.alloc(0);
      const send = (count) => {
        const next = [];
        for (let i = 0; i < count; i++) next.push(commands[sent++ % commands.length]);
        socket.write(Buffer.concat(next));
      };
      const end = (error) => {
        socket.off('data', take);
        socket.off('close', closed);
        if (error) reject(error);
        else resolve(answered);
      };
      const closed = () => end(new Error('the server closed the connection'));
      const take = (chunk) => {
        const bytes = rest.length > 0 ? Buffer.concat([rest, chunk]) : chunk;
        const count = Math.floor(bytes.length / FINE.length);
        for (let at = 0; at < count * FINE.length; at += FINE.length) {
          if (FINE.compare(bytes, at, at + FINE.length) !== 0) {
            return end(
              new Error(`not all were refreshed: ${bytes.toString('latin1', at, at + 80)}`),
            );
          }
        }
        rest = bytes.subarray(count * FINE.length);
        answered += count;
        const missing = whole ? (commands.length - (sent % commands.length)) % commands.length : 0;
        if (performance.now() < until) send(count);
        else if (missing > 0) send(Math.min(count, missing));
        else if (answered === sent) end();
      };
      socket.on('data', take);
      socket.on('close', closed);
      send(inFlight);
    });
  }

  close() {
    this.#socket.destroy();
  }
}
