// What the server is asked. Paths are relative, so the page also works behind a proxy that puts something before them.

const KEY = "tenfold-key";

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// In this tab only; a browser that refuses storage keeps it until the page is left.
let held = "";
export function getKey() {
  try {
    return sessionStorage.getItem(KEY) || held;
  } catch {
    return held;
  }
}
export function setKey(key) {
  held = key;
  try {
    sessionStorage.setItem(KEY, key);
  } catch {
    // it is held, then
  }
}

function headers(more) {
  const key = getKey();
  return key ? { ...more, authorization: "Bearer " + key } : { ...more };
}

async function failure(answer) {
  let message = answer.status + " " + answer.statusText;
  try {
    message = (await answer.json()).error.message;
  } catch {
    // what answered is not Tenfold
  }
  return new ApiError(answer.status, message);
}

export async function get(path, signal) {
  const answer = await fetch(path, { headers: headers(), signal, cache: "no-store" });
  if (!answer.ok) throw await failure(answer);
  return answer.json();
}

/** The events of an answer, or the whole of one that is not streamed, as a single event. */
export async function* post(path, body, signal) {
  const kind = { "content-type": "application/json" };
  const answer = await fetch(path, { method: "POST", headers: headers(kind), body: JSON.stringify(body), signal });
  if (!answer.ok) throw await failure(answer);
  if (!body.stream) {
    yield await answer.json();
    return;
  }
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let part; !(part = await reader.read()).done; ) {
    const lines = (rest + part.value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const text = line.slice(5).trim();
      if (text === "[DONE]") return;
      const event = JSON.parse(text);
      if (event.error) throw new ApiError(200, event.error.message);
      yield event;
    }
  }
}
