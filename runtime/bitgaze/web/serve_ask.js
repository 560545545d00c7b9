// Questions to the server, and what becomes of them when there is no answer.

export class Failure extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

let running; // AbortController of the search on its way

// A search takes the place of the one before.
export function ask(path, options = {}) {
  running?.abort();
  running = new AbortController();
  return load(path, { ...options, signal: running.signal });
}

export async function load(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("no_server", "It may have been stopped, or the connection is gone. Start it again with `bitgaze serve`, then try again.");
  }
  const isJson = answer.headers.get("content-type")?.startsWith("application/json");
  if (!isJson) throw new Failure("odd_answer", `The server answered ${answer.status} and nothing that this page understands. Try again in a moment.`);
  const body = await answer.json();
  if (!answer.ok) throw new Failure(body.error.code, body.error.message);
  return body;
}
