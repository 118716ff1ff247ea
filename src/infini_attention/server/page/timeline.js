// The places that a session can go back to: spaced by their age, as they are kept.

import { post, send, sessionPath } from "./api.js";
import { $, attempt, count, el, sure } from "./dom.js";

export function startTimeline(page) {
  const form = $("places");
  const now = () => page.info.infini.tokens_seen;
  const inSegments = (tokens) => Math.log1p(tokens / page.model.segment_size);

  function describe(tokens) {
    const place = page.info.places.find((each) => each.tokens === tokens);
    const parts = [`Token ${count(tokens)}`, tokens === now() ? "here" : `${count(now() - tokens)} back`];
    if (place?.turn != null) parts.push(`before message ${place.turn + 1}`);
    for (const mark of place?.marks ?? []) parts.push(`“${mark}”`);
    if (!place && tokens !== now()) parts.push("no state is kept there: reached only where the text since one is");
    return parts.join(" · ");
  }

  function choose(tokens) {
    form.to_token.value = tokens;
    $("place-about").textContent = describe(tokens);
  }

  function dot(place) {
    const kind = place.marks.length ? "marked" : place.turn !== null ? "message" : "";
    const age = inSegments(now() - place.tokens) / inSegments(now());
    const input = el("input", {
      type: "radio",
      name: "place",
      value: place.tokens,
      onchange: () => choose(place.tokens),
    });
    const label = el(
      "label",
      { class: `dot ${kind}`, title: describe(place.tokens) },
      input,
      el("span", { class: "hidden" }, describe(place.tokens)),
    );
    label.style.setProperty("--at", 1 - age);
    return label;
  }

  function show() {
    const { id, infini, places } = page.info;
    const kept = places.filter(({ tokens }) => tokens > 0 && tokens < infini.tokens_seen);
    $("track").replaceChildren($("track").firstElementChild, ...kept.map(dot));
    for (const field of [...form.elements, ...$("mark").elements]) field.disabled = infini.tokens_seen === 0;
    $("timeline-about").textContent = infini.tokens_seen
      ? `${count(kept.length)} places are kept, close together near the end and farther apart before. Nothing is read again there.`
      : "Nothing was read yet.";
    form.to_token.max = infini.tokens_seen;
    form.to_token.value = "";
    $("place-about").textContent = "";
    const marks = places.flatMap((place) => place.marks.map((name) => ({ name, tokens: place.tokens })));
    $("marks").replaceChildren(...marks.map((mark) => chip(id, mark)));
  }

  function chip(id, { name, tokens }) {
    const remove = (event) =>
      attempt(event.target, async () => {
        await send("DELETE", sessionPath(id, `/marks/${encodeURIComponent(name)}`));
        await page.refresh();
      });
    return el(
      "li",
      {},
      el(
        "button",
        { type: "button", onclick: () => choose(tokens) },
        name,
        " ",
        el("span", { class: "quiet" }, count(tokens)),
      ),
      el(
        "button",
        { type: "button", class: "remove", "aria-label": `Take off the mark ${name}`, onclick: remove },
        "×",
      ),
    );
  }

  form.to_token.addEventListener("input", () => {
    const tokens = form.to_token.valueAsNumber;
    for (const input of form.querySelectorAll("input[name=place]")) input.checked = Number(input.value) === tokens;
    $("place-about").textContent = Number.isNaN(tokens) ? "" : describe(tokens);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const to_token = form.to_token.valueAsNumber;
    attempt($("rewind"), async () => {
      const { id } = page.info;
      const lost = count(now() - to_token);
      if (
        !(await sure(`Take ${id} back to token ${count(to_token)}? The ${lost} tokens since are gone, but for forks.`))
      )
        return;
      await post(sessionPath(id, "/rewind"), { to_token });
      await page.refresh();
    });
  });
  $("fork-here").addEventListener("click", (event) => {
    if (!form.reportValidity()) return;
    const to_token = form.to_token.valueAsNumber;
    attempt(event.target, async () => {
      const { id } = await post(sessionPath(page.info.id, "/fork"), {});
      try {
        await post(sessionPath(id, "/rewind"), { to_token });
      } catch (error) {
        await send("DELETE", sessionPath(id)); // nobody asked for a fork of the end
        throw error;
      }
      await page.open(id);
    });
  });
  $("mark").addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(event.submitter, async () => {
      await send("PUT", sessionPath(page.info.id, "/marks"), {
        json: { name: $("mark").elements.namedItem("name").value },
      });
      $("mark").reset();
      await page.refresh();
    });
  });
  return { changed: () => page.info && show() };
}
