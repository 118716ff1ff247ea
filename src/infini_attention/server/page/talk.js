// Saying something to a session, and asking forks of it.

import { events, sessionPath } from "./api.js";
import { $, attempt, count, el } from "./dom.js";
import { keepTalk, talkOf } from "./transcripts.js";

const MODES = {
  chat: { field: "message", label: "Chat", about: "Message and reply stay in the session.", hint: "Say something" },
  ask: {
    field: "question",
    label: "Ask",
    about: "A fork answers; the session stays as it is.",
    hint: "Ask about what was read",
  },
  complete: {
    field: "prompt",
    label: "Complete",
    about: "A fork writes on; the session stays as it is.",
    hint: "Begin a sentence; the model goes on",
  },
};

export function startTalk(page) {
  const form = $("say");
  const log = $("log");
  let entries = [];

  function show(entry) {
    const answer = el("p", { class: "answer" }, entry.answer);
    const about = el("p", { class: "quiet" }, entry.about);
    const asked = el("p", { class: "asked" }, entry.asked);
    const item = el("li", { class: entry.mode }, asked, answer, about);
    log.append(item);
    log.scrollTop = log.scrollHeight;
    return { item, answer, about };
  }

  function chosen() {
    return form.querySelector("input[name=mode]:checked")?.value;
  }

  function explain() {
    $("message").placeholder = MODES[chosen()].hint;
    $("mode-about").textContent = MODES[chosen()].about;
  }

  async function say(signal) {
    const { id } = page.info;
    const mode = chosen();
    const entry = { mode, asked: $("message").value, answer: "", about: "…", tokens: page.info.infini.tokens_seen };
    const mine = entries; // another session may be opened before the answer is there
    const shown = show(entry);
    $("message").value = ""; // the next one may be written meanwhile
    const json = {
      [MODES[mode].field]: entry.asked,
      max_new_tokens: form.max_new_tokens.valueAsNumber,
      temperature: form.temperature.valueAsNumber,
      stream: true,
    };
    log.ariaBusy = "true"; // what listens hears the whole answer, and not each piece
    try {
      for await (const event of events(sessionPath(id, `/${mode}`), { json, signal })) {
        if (event.object === "session.delta") {
          entry.answer += event.text;
          shown.answer.append(event.text);
          log.scrollTop = log.scrollHeight;
        } else {
          entry.answer = shown.answer.textContent = event.text;
          entry.about = shown.about.textContent = about(mode, event);
          if (mode === "chat") entry.tokens = event.infini.tokens_seen;
        }
      }
      mine.push(entry);
      keepTalk(id, mine);
    } catch (error) {
      shown.item.classList.add("failed");
      $("message").value ||= entry.asked;
      shown.about.textContent = error.name === "AbortError" ? "stopped; the session is as it was" : error.message;
      throw error;
    } finally {
      log.ariaBusy = "false";
    }
    if (mode === "chat") await page.refresh();
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const stopping = new AbortController();
    $("stop").hidden = false;
    $("stop").onclick = () => stopping.abort();
    attempt($("send"), () => say(stopping.signal)).finally(() => ($("stop").hidden = true));
  });
  $("message").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  return {
    modelKnown() {
      const modes = Object.entries(MODES).filter(([mode]) => page.model.chat || mode !== "chat");
      const first = page.model.chat ? "chat" : "complete";
      const choices = modes.map(([mode, { label }]) =>
        el(
          "label",
          { class: "choice" },
          el("input", { type: "radio", name: "mode", value: mode, checked: mode === first, onchange: explain }),
          label,
        ),
      );
      $("modes").replaceChildren($("modes").firstElementChild, ...choices);
      explain();
    },
    changed(another) {
      const { id, infini } = page.info ?? {};
      if (!id) return;
      const known = another
        ? talkOf(id, infini.tokens_seen)
        : entries.filter((entry) => entry.tokens <= infini.tokens_seen);
      if (!another && known.length === entries.length) return;
      entries = known;
      log.replaceChildren();
      entries.forEach(show);
    },
  };
}

function about(mode, { usage, infini, finish_reason }) {
  const cached = usage.prompt_tokens_details.cached_tokens;
  const parts = [
    MODES[mode].label,
    `${count(cached)} tokens known`,
    `${count(usage.prompt_tokens - cached)} read`,
    `${count(usage.completion_tokens)} written`,
    `${count(infini.dropped)} dropped`,
  ];
  if (finish_reason === "length") parts.push("stopped at the limit");
  return parts.join(" · ");
}
