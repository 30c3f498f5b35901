// What goes over the wire, by the server's own count.

/** Bytes that the server has read and written so far; asking costs some hundred of them. */
export async function bytesOf(redis) {
  const info = await redis.info('stats');
  const of = (name) => Number(new RegExp(`${name}:(\\d+)`).exec(info)?.[1]);
  return of('total_net_input_bytes') + of('total_net_output_bytes');
}
