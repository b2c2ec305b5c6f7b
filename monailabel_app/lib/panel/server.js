/*
 * Questions to the server; what goes wrong becomes one sentence.
 */

export const CANCELLED = 409; // status of a run that a person has ended
export const SILENT = 'The server does not answer; is it still running?';

export async function ask(path, query, options) {
  const url = query ? `${path}?${new URLSearchParams(query)}` : path;
  const response = await fetch(url, options).catch(() => {
    throw new Error(SILENT);
  });
  if (!response.ok) {
    const { detail } = await response.json().catch(() => ({}));
    const sentence = typeof detail === 'string' ? detail : `The server answered ${response.status}.`;
    throw Object.assign(new Error(sentence), { status: response.status });
  }
  return response;
}

export async function askJson(path, query, options) {
  const response = await ask(path, query, options);
  return response.status === 204 ? null : response.json();
}

export async function askBytes(path, query) {
  const response = await ask(path, query);
  return response.status === 204 ? null : new Uint8Array(await response.arrayBuffer());
}

/** What is posted with a run: its options, and a mask where one is drawn. */
export function form(mask, params = {}) {
  const body = new FormData();
  body.append('params', JSON.stringify(params));
  if (mask) {
    body.append('label', new Blob([mask]), 'label.bin');
  }
  return body;
}
