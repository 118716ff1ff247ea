// The server's API. Addresses are relative, so that the page works behind a proxy's prefix too.

const KEY = "infini-key";

/** What the server refuses something with. */
export class ApiError extends Error {
  constructor(status, error) {
    super(error?.message ?? `the server answered with status ${status}`);
    this.status = status;
    this.code = error?.code ?? null;
  }
}

export const apiKey = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY)),
};

export const sessionPath = (id, rest = "") => `v1/sessions/${encodeURIComponent(id)}${rest}`;

/** A response; raises `ApiError`. `json` and `form` are two kinds of body. */
export async function send(method, path, { json, form, signal } = {}) {
  const headers = apiKey.get() ? { Authorization: `Bearer ${apiKey.get()}` } : {};
  if (json) headers["Content-Type"] = "application/json";
  const body = json ? JSON.stringify(json) : form;
  let response;
  try {
    response = await fetch(path, { method, headers, body, signal });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error("the server cannot be reached; is it still running?");
  }
  if (!response.ok) throw new ApiError(response.status, (await response.json().catch(() => ({}))).error);
  return response;
}

export const get = async (path, options) => (await send("GET", path, options)).json();
export const post = async (path, json) => (await send("POST", path, { json })).json();

/** The events of a stream, parsed. Raises `ApiError` for one that is an error, and where the stream breaks off. */
export async function* events(path, options) {
  const response = await send("POST", path, options);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("the server stopped before the end of its answer");
    const parts = (held + value).replaceAll("\r\n", "\n").split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      const data = part
        .split("\n")
        .filter((line) => line.startsWith("data: "))
        .map((line) => line.slice(6))
        .join("\n");
      if (data === "[DONE]") return;
      if (!data) continue; // a sign of life
      const event = JSON.parse(data);
      if (event.error) throw new ApiError(0, event.error);
      yield event;
    }
  }
}

/** Lets a browser keep a response as a file. */
export async function keep(path, name) {
  const address = URL.createObjectURL(await (await send("GET", path)).blob());
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
