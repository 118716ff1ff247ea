// What the parts of the page share: the model, the session that is open, and the key.

import { apiKey, get, sessionPath } from "./api.js";
import { $, attempt, bytes, complain, count, figures } from "./dom.js";
import { startMemory } from "./memory.js";
import { startReading } from "./reading.js";
import { startSessions } from "./sessions.js";
import { startTalk } from "./talk.js";
import { startTimeline } from "./timeline.js";

const OPEN = "infini-session";

/** `model` and `info` are answers of the API; `info` is null while no session is open. */
const page = { model: null, info: null, open, refresh };
const parts = [];

async function start() {
  $("key-button").addEventListener("click", askForKey);
  for (const begin of [startSessions, startTalk, startReading, startTimeline, startMemory]) parts.push(begin(page));
  await load();
}

async function load() {
  try {
    [page.model] = (await get("v1/models")).data;
    const { id, rule, segment_size, chat } = page.model;
    $("model").textContent =
      `${id} · ${rule} · segments of ${count(segment_size)} tokens${chat ? "" : " · no chat template"}`;
    $("key-button").hidden = !apiKey.get(); // nobody is asked for one, or this is it
    for (const part of parts) part.modelKnown?.();
    await refresh(sessionStorage.getItem(OPEN));
  } catch (error) {
    if (error.status === 401) askForKey();
    else complain(error);
  }
}

/** Shows a session; null shows none. */
async function open(id) {
  if (id) sessionStorage.setItem(OPEN, id);
  else sessionStorage.removeItem(OPEN);
  await refresh(id);
}

/** Asks the server again how things stand; without an argument, with the session that is open. */
async function refresh(id = page.info?.id) {
  let info = null;
  try {
    info = id ? await get(sessionPath(id)) : null;
  } catch (error) {
    if (error.status !== 404) throw error; // it was deleted elsewhere
    sessionStorage.removeItem(OPEN);
  }
  const another = info?.id !== page.info?.id;
  page.info = info;
  $("session").hidden = info === null;
  $("welcome").hidden = info !== null;
  if (info) showAccount(info);
  for (const part of parts) await part.changed?.(another);
}

function showAccount({ id, infini }) {
  $("session-name").textContent = id;
  figures($("account"), [
    ["tokens read", count(infini.tokens_seen)],
    ["in the window", count(infini.in_window)],
    ["in the memory alone", count(infini.compressed)],
    ["dropped", count(infini.dropped)],
    ["state", bytes(infini.state_bytes)],
    ["a full KV cache", bytes(infini.tokens_seen * page.model.full_kv_bytes_per_token)],
  ]);
}

function askForKey() {
  const dialog = $("key-dialog");
  if (dialog.open) return;
  $("key-button").hidden = false;
  $("key").value = apiKey.get();
  dialog.returnValue = "";
  dialog.showModal();
}

$("key-dialog").addEventListener("close", () => {
  const { returnValue } = $("key-dialog");
  if (!["use", "forget"].includes(returnValue)) return;
  apiKey.set(returnValue === "use" ? $("key").value.trim() : "");
  $("key").value = "";
  attempt(null, load);
});
// Enter presses the first button of a form, which is not the one that is meant here.
$("key").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  $("key-dialog").close("use");
});

start();
