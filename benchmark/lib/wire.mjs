// Counts network bytes, as the server reports them.

/**
 * Bytes that the server has read and written so far; the request itself takes some hundred bytes.
 */
export async function bytesOf(redis) {
  const info = await redis.info('stats');
  const of = (name) => Number(new RegExp(`${name}:(\\d+)`).exec(info)?.[1]);
  return of('total_net_input_bytes') + of('total_net_output_bytes');
}
