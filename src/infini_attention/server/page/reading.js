// Reading texts into a session, and watching it: how far, how fast, and how many bytes that takes.

import { events, sessionPath } from "./api.js";
import { $, attempt, bytes, complain, count, figures } from "./dom.js";
import { lineChart } from "./charts.js";

export function startReading(page) {
  let measured = []; // [tokens, bytes of the state], of the session that is open
  let busy = false;

  function draw() {
    const tokens = measured.at(-1)?.[0];
    if (!tokens) {
      $("bytes-chart").replaceChildren();
      return;
    }
    lineChart($("bytes-chart"), {
      title: "Bytes of the state beside those of a full KV cache",
      x: "tokens read",
      format: bytes,
      series: [
        {
          name: "full KV cache",
          kind: "other",
          points: [
            [0, 0],
            [tokens, tokens * page.model.full_kv_bytes_per_token],
          ],
        },
        { name: "state", kind: "ours", points: measured.length > 1 ? measured : [[0, measured[0][1]], measured[0]] },
      ],
    });
  }

  function follow(event, size) {
    if (size) $("reading-bar").value = Math.min(1, event.text_bytes / size);
    figures($("reading-figures"), [
      ["tokens", count(event.tokens_read)],
      ["tokens/s", count(event.tokens_per_second)],
      ["state", bytes(event.state_bytes)],
      ["a full KV cache", bytes(event.full_kv_bytes)],
    ]);
  }

  /** Reads to the end; `size` in bytes of UTF-8 is what the bar goes by. */
  async function read(id, name, path, size, body) {
    if (busy) throw new Error("a text is being read already; wait for its end, or cancel it");
    busy = true;
    const stopping = new AbortController();
    $("reading").hidden = false;
    $("reading-stop").hidden = false;
    $("reading-stop").onclick = () => stopping.abort();
    $("reading-what").textContent = `Sending ${name} to ${id} …`;
    $("reading-figures").replaceChildren();
    $("reading-bar").removeAttribute("value");
    try {
      for await (const event of events(sessionPath(id, path), { ...body, signal: stopping.signal })) {
        if (event.object === "session.progress") {
          $("reading-what").textContent = `Reading ${name} into ${id}`;
          follow(event, size);
          if (page.info?.id === id) {
            measured.push([event.tokens_seen, event.state_bytes]);
            draw();
          }
        } else {
          const speed = event.seconds ? event.tokens_read / event.seconds : 0;
          const end = { tokens_read: event.tokens_read, tokens_per_second: speed, text_bytes: size, ...event.infini };
          follow({ ...end, full_kv_bytes: event.infini.tokens_seen * page.model.full_kv_bytes_per_token }, size);
          const whole = event.complete ? "Read" : "The server was stopped; read a part of";
          $("reading-what").textContent = `${whole} ${name} in ${event.seconds.toFixed(1)} s`;
        }
      }
    } catch (error) {
      const why = error.name === "AbortError" ? "Cancelled" : "Failed";
      $("reading-what").textContent = `${why}: ${id} is as it was before ${name}`;
      $("reading-bar").value = 0;
      measured = measured.filter(([tokens]) => tokens <= page.info?.infini.tokens_seen);
      throw error;
    } finally {
      busy = false;
      $("reading-stop").hidden = true;
      draw();
    }
    if (page.info?.id === id) await page.refresh();
  }

  async function readFiles(files) {
    const { id } = page.info;
    for (const file of files) {
      const form = new FormData();
      form.append("file", file);
      form.append("stream", "true");
      await read(id, file.name, "/file", file.size, { form });
    }
  }

  const drop = $("drop");
  $("files").addEventListener("change", (event) => {
    const files = [...event.target.files];
    event.target.value = ""; // so that the same one can be chosen again
    attempt(null, () => readFiles(files));
  });
  for (const kind of ["dragenter", "dragover"])
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", page.info !== null);
    });
  for (const kind of ["dragleave", "drop"]) document.addEventListener(kind, () => drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault(); // a browser would leave the page for the file
    const files = [...event.dataTransfer.files];
    if (!page.info) complain(new Error("there is no session to read it; make one first"));
    else if (files.length) attempt(null, () => readFiles(files));
  });
  $("read-text").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("text").value;
    const size = new TextEncoder().encode(text).length;
    attempt(event.submitter, async () => {
      await read(page.info.id, "the text", "/text", size, { json: { text, stream: true } });
      $("text").value = "";
    });
  });
  new ResizeObserver(draw).observe($("read"));
  return {
    changed(another) {
      if (another) {
        measured = [];
        $("reading").hidden = !busy;
      }
      if (!page.info) return;
      const { tokens_seen, state_bytes } = page.info.infini;
      measured = measured.filter(([tokens]) => tokens < tokens_seen); // it may have gone back
      if (tokens_seen) measured.push([tokens_seen, state_bytes]);
      draw();
    },
  };
}
