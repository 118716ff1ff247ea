// What was said in this tab. The server keeps the state of a session, and not its text.

const PREFIX = "infini-talk-";

/** The entries of a session that its `tokens` still know of: `{ mode, asked, answer, about, tokens }`. */
export function talkOf(id, tokens) {
  const entries = JSON.parse(sessionStorage.getItem(PREFIX + id) ?? "[]");
  return entries.filter((entry) => entry.tokens <= tokens);
}

export function keepTalk(id, entries) {
  try {
    sessionStorage.setItem(PREFIX + id, JSON.stringify(entries));
  } catch {
    sessionStorage.removeItem(PREFIX + id); // no room: it stays on the screen until the session is left
  }
}

export const forgetTalk = (id) => sessionStorage.removeItem(PREFIX + id);
