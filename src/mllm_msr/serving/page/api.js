// Requests to the service that served the page, and the errors that the page shows.

const TIMEOUT = 60_000; // milliseconds to wait for a response
const RETRY_AFTER = 5; // seconds, if the service is overloaded and names no time

let key = "";
let asking = null; // the open question for the key

// Error with a message for people, and what it says about trying again.
export class ServiceError extends Error {
  constructor(message, { status = 0, retryAfter = null } = {}) {
    super(message);
    this.status = status; // 0 if there was no response
    this.retryAfter = retryAfter; // seconds, or null if waiting does not help
  }
}

export const hasKey = () => key !== "";

export const idOf = (id) => encodeURIComponent(id);

export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (n) => n.toString(16).padStart(2, "0")).join("");
}

export async function request(path, { method = "GET", body } = {}) {
  const sent = key;
  const headers = { ...(sent && { "X-API-Key": sent }), ...(body && { "Content-Type": "application/json" }) };
  const options = { method, headers, body: body && JSON.stringify(body), signal: AbortSignal.timeout(TIMEOUT) };
  const response = await fetch(path, options).catch((error) => {
    const slow = error.name === "TimeoutError";
    const problem = slow ? `The service did not respond within ${TIMEOUT / 1000} seconds.` : "The service cannot be reached.";
    throw new ServiceError(problem, { retryAfter: RETRY_AFTER });
  });
  if (response.status === 401) {
    // The key may have been entered while this request was under way without it.
    if (sent === key) await (asking ??= askForKey().finally(() => { asking = null; }));
    return request(path, { method, body });
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

export const fetchJson = async (path, options) => (await request(path, options)).json();

async function errorOf(response) {
  const { detail } = await response.json().catch(() => ({}));
  const { status } = response;
  const busy = status === 429 || status === 503;
  const header = response.headers.get("Retry-After");
  // The header has seconds or a date.
  const seconds = header === null ? RETRY_AFTER : Number(header) || (Date.parse(header) - Date.now()) / 1000 || RETRY_AFTER;
  return new ServiceError(detail ?? `The service returned status ${status}.`, {
    status,
    retryAfter: busy ? Math.max(1, Math.ceil(seconds)) : null,
  });
}

function askForKey() {
  const dialog = document.getElementById("ask-key");
  const input = document.getElementById("key");
  return new Promise((done) => {
    dialog.addEventListener("close", () => { key = input.value.trim(); input.value = ""; done(); }, { once: true });
    dialog.showModal();
  });
}
