// Requests to the server. Whatever goes wrong becomes a RequestError with a message for a person.

export class RequestError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

let pending; // AbortController of the search in progress

// Cancels the previous search, if it is still running.
export function fetchSearch(path, options = {}) {
  pending?.abort();
  pending = new AbortController();
  return fetchJson(path, { ...options, signal: pending.signal });
}

export async function fetchJson(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestError("no_server", "It may have stopped, or the connection was lost. Start `bitgaze serve` again, then try again.");
  }
  const isJson = answer.headers.get("content-type")?.startsWith("application/json");
  if (!isJson) throw new RequestError("odd_answer", `The server answered ${answer.status} with something this page does not understand. Try again in a moment.`);
  const body = await answer.json();
  if (!answer.ok) throw new RequestError(body.error.code, body.error.message);
  return body;
}
