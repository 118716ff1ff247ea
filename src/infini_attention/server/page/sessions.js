// The list of sessions, and what is done with a whole one.

import { get, keep, post, send, sessionPath } from "./api.js";
import { $, attempt, count, el, sure } from "./dom.js";
import { forgetTalk } from "./transcripts.js";

export function startSessions(page) {
  let shown = 100;

  async function list() {
    const { data, has_more } = await get(`v1/sessions?limit=${shown}`);
    $("session-list").replaceChildren(
      ...data.map(({ id, infini }) =>
        el(
          "li",
          {},
          el(
            "button",
            {
              type: "button",
              title: id,
              "aria-current": id === page.info?.id ? "true" : null,
              onclick: () => attempt(null, () => page.open(id)),
            },
            el("span", { class: "name" }, id),
            el("span", { class: "quiet" }, `${count(infini.tokens_seen)} tokens`),
          ),
        ),
      ),
    );
    $("more-sessions").hidden = !has_more || shown >= 1000;
  }

  $("more-sessions").addEventListener("click", (event) => {
    shown = Math.min(1000, shown * 3);
    attempt(event.target, list);
  });
  $("new-session").addEventListener("submit", (event) => {
    event.preventDefault();
    const form = event.target;
    attempt(form.querySelector("button"), async () => {
      const id = form.elements.namedItem("id").value.trim();
      const made = await post("v1/sessions", id ? { id } : {});
      form.reset();
      await page.open(made.id);
    });
  });
  $("restore").addEventListener("change", (event) =>
    attempt(null, async () => {
      const form = new FormData();
      form.append("file", event.target.files[0]);
      event.target.value = "";
      await page.open((await (await send("POST", "v1/sessions/restore", { form })).json()).id);
    }),
  );
  $("fork").addEventListener("click", (event) =>
    attempt(event.target, async () => page.open((await post(sessionPath(page.info.id, "/fork"), {})).id)),
  );
  $("download").addEventListener("click", (event) =>
    attempt(event.target, () => keep(sessionPath(page.info.id, "/download"), `${page.info.id}.session`)),
  );
  $("delete").addEventListener("click", (event) =>
    attempt(event.target, async () => {
      const { id } = page.info;
      if (!(await sure(`Delete ${id} for good? Its forks stay.`))) return;
      await send("DELETE", sessionPath(id));
      forgetTalk(id);
      await page.open(null);
    }),
  );
  return { changed: list };
}
