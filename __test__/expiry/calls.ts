// The reaper's script calls on the wire: their number of keys, and the first key.

export const CALLS = {
  /** The node reads the rooms that are due. */
  rooms: /EVALSHA\r\n\$40\r\n\w+\r\n\$\d+\r\n\d+\r\n\$\d+\r\nprs:due:/,
  candidates: /EVALSHA\r\n\$40\r\n\w+\r\n\$1\r\n4\r\n\$\d+\r\nprs:\{room:[^}]*\}:last_seen\r\n/,
  reap: /EVALSHA\r\n\$40\r\n\w+\r\n\$\d+\r\n\d+\r\n\$\d+\r\nprs:\{room:[^}]*\}:conns\r\n\$\d+\r\nprs:\{room:[^}]*\}:members\r\n\$\d+\r\nprs:\{room:[^}]*\}:last_seen\r\n\$\d+\r\nprs:\{room:[^}]*\}:conn_meta/,
} as const;
