"use strict";
const token = document.querySelector("meta[name=page-token]").content;

// On a phone the list of pages scrolls sideways: the page that is open comes into sight.
const here = document.querySelector("nav a[aria-current]");
if (here) {
  const bar = here.closest("nav");
  bar.scrollLeft = here.offsetLeft - bar.clientWidth / 2 + here.offsetWidth / 2;
}

// Tables whose head is clicked sort by that column.
for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, column, heads) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const text = (row) => row.cells[column].textContent.trim();
      const rows = [...table.tBodies[0].rows].sort((a, b) =>
        text(a).localeCompare(text(b), undefined, { numeric: true }) * (down ? -1 : 1));
      table.tBodies[0].append(...rows);
    });
  });
}

// Charts with lines tell the values under the pointer.
function readout(chart) {
  const plot = chart.querySelector("svg.plot");
  const lines = JSON.parse(chart.dataset.lines);
  const note = document.createElement("div");
  note.className = "readout";
  note.hidden = true;
  chart.append(note);
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const at = (event.clientX - box.left) / box.width;
    note.textContent = lines.map((line) => {
      const near = line.points.reduce((best, p) =>
        Math.abs(p[0] - at) < Math.abs(best[0] - at) ? p : best);
      return `${line.name} ${near[2]} (step ${near[1]})`;
    }).join(" · ");
    note.hidden = false;
  });
  plot.addEventListener("pointerleave", () => { note.hidden = true; });
}
document.querySelectorAll(".chart[data-lines]").forEach(readout);

// A run that goes on: every event holds the whole state.
const curves = document.querySelector("#run-curves[data-events]");
if (curves) {
  const source = new EventSource(curves.dataset.events);
  const log = document.getElementById("run-log");
  source.addEventListener("state", (event) => {
    const state = JSON.parse(event.data);
    document.getElementById("run-tiles").innerHTML = state.tiles;
    curves.innerHTML = state.curves;
    curves.querySelectorAll(".chart[data-lines]").forEach(readout);
    document.getElementById("run-state").textContent = state.state;
    document.getElementById("run-share").value = state.share ?? 0;
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    log.textContent = state.log.join("\n") + "\n";
    if (atEnd) log.scrollTop = log.scrollHeight;
  });
  source.addEventListener("end", () => { source.close(); location.reload(); });
}

// Review: a decision is sent at once; keys k and d decide on the row that has the focus.
const review = document.getElementById("review");
if (review) {
  let left = review.children.length;
  const decide = async (card, decision, label) => {
    const fault = card.querySelector(".fault");
    const { place, id, kind } = card.dataset;
    const reply = await fetch(review.dataset.to, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Page-Token": token },
      body: JSON.stringify({ place, id, kind, decision, label: label ?? "" }),
    });
    if (!reply.ok) {
      fault.textContent = (await reply.json()).error.message;
      fault.hidden = false;
      return;
    }
    const next = card.nextElementSibling?.querySelector("button");
    card.remove();
    left -= 1;
    document.getElementById("review-left").textContent = `${left} to decide.`;
    next?.focus();
  };
  review.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-decision]");
    if (button) decide(button.closest("li"), button.dataset.decision, button.dataset.label);
  });
  review.addEventListener("change", (event) => {
    if (event.target.value) decide(event.target.closest("li"), "relabel", event.target.value);
  });
  review.addEventListener("keydown", (event) => {
    const decision = { k: "keep", d: "drop" }[event.key];
    if (decision && event.target.matches("button")) decide(event.target.closest("li"), decision);
  });
}

// Playground: the same text to two models, side by side, as they write.
const play = document.getElementById("play");
if (play) {
  let stop = null;
  const stopper = document.getElementById("play-stop");
  const headers = { "Content-Type": "application/json" };

  const say = async (reply) => {
    if (!reply.ok) throw new Error((await reply.json()).error.message);
    return reply;
  };
  const classify = async (model, text, side, signal) => {
    const reply = await say(await fetch("/v1/classify", {
      method: "POST", headers, signal, body: JSON.stringify({ model, input: [text] }),
    }));
    const answer = (await reply.json()).data[0];
    const sure = answer.score == null ? "" : ` (${Math.round(100 * answer.score)} %)`;
    side.out.textContent = typeof answer.label === "string" || typeof answer.label === "number"
      ? `${answer.label}${sure}` : JSON.stringify(answer.label, null, 1);
    const rest = Object.entries(answer.scores ?? {}).sort((a, b) => b[1] - a[1]).slice(1, 5);
    side.fine.textContent = rest.map(([name, p]) => `${name} ${Math.round(100 * p)} %`).join(", ");
  };
  const write = async (model, text, side, signal) => {
    const started = performance.now();
    const reply = await say(await fetch("/v1/chat/completions", {
      method: "POST", headers, signal,
      body: JSON.stringify({
        model, messages: [{ role: "user", content: text }], stream: true,
        temperature: Number(play.heat.value), max_tokens: Number(play.most.value),
        stream_options: { include_usage: true },
      }),
    }));
    const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const data = event.replace(/^data: /, "");
        if (data === "[DONE]") continue;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new Error(chunk.error.message);
        side.out.textContent += chunk.choices[0]?.delta?.content ?? "";
        if (chunk.usage) {
          const seconds = (performance.now() - started) / 1000;
          const count = chunk.usage.completion_tokens;
          side.fine.textContent = `${count} tokens in ${seconds.toFixed(1)} s`;
        }
      }
    }
  };
  const ask = async (name, signal) => {
    const chosen = play[name].selectedOptions[0];
    const side = {
      out: document.getElementById(`out-${name}`),
      fine: document.getElementById(`fine-${name}`),
    };
    side.out.textContent = side.fine.textContent = "";
    document.getElementById(`out-${name}-title`).textContent = chosen.value || "Beside it";
    if (!chosen.value) return;
    try {
      const how = chosen.dataset.kind === "labels" ? classify : write;
      await how(chosen.value, play.text.value, side, signal);
    } catch (error) {
      side.fine.textContent = error.name === "AbortError" ? "stopped" : error.message;
    }
  };
  play.addEventListener("submit", async (event) => {
    event.preventDefault();
    stop?.abort();
    const mine = stop = new AbortController();
    stopper.disabled = false;
    await Promise.all([ask("left", mine.signal), ask("right", mine.signal)]);
    if (stop === mine) stopper.disabled = true;
  });
  stopper.addEventListener("click", () => stop?.abort());
  play.text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) play.requestSubmit();
  });
  // The base of the chosen model is what one wants to see beside it.
  const beside = () => {
    const base = play.left.selectedOptions[0]?.dataset.base;
    const has = [...play.right.options].some((option) => option.value === base);
    if (base && has) play.right.value = base;
  };
  play.left.addEventListener("change", beside);
  if (!play.right.value) beside();
}

// Tune: upload, forecast, start. A change after the forecast asks for a new one.
const tune = document.getElementById("tune");
if (tune) {
  const part = (name) => document.getElementById(`tune-${name}`);
  const say = (text) => { part("fault").textContent = text; part("fault").hidden = !text; };
  const send = async (address, options) => {
    const reply = await fetch(address, { method: "POST", ...options });
    const body = await reply.json();
    if (!reply.ok) throw new Error(body.error.message);
    return body;
  };
  const json = { "Content-Type": "application/json", "X-Page-Token": token };
  const wanted = () => {
    const epochs = tune.n_epochs.value ? Number(tune.n_epochs.value) : null;
    return { model: tune.model.value, training_file: tune.training_file.value,
      method: tune.method.value === "dpo" ? "dpo" : "supervised", n_epochs: epochs };
  };
  const busy = async (work) => {
    say("");
    tune.setAttribute("aria-busy", "true");
    try { await work(); } catch (error) { say(error.message); }
    tune.removeAttribute("aria-busy");
  };
  tune.addEventListener("input", () => { part("forecast").hidden = true; });
  part("upload").addEventListener("change", () => busy(async () => {
    const form = new FormData();
    form.append("purpose", "fine-tune");
    form.append("file", part("upload").files[0]);
    const file = await send("/v1/files", { body: form });
    part("file").add(new Option(file.filename, file.id, true, true));
  }));
  tune.addEventListener("submit", (event) => {
    event.preventDefault();
    busy(async () => {
      const told = await send("/tune/forecast", { headers: json, body: JSON.stringify(wanted()) });
      part("rows").replaceChildren(...told.rows.map(([name, value]) => {
        const row = document.createElement("div");
        const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
        [dt.textContent, dd.textContent] = [name, value];
        row.append(dt, dd);
        return row;
      }));
      part("warnings").replaceChildren(...told.warnings.map((text) => {
        const item = document.createElement("li");
        item.textContent = text;
        return item;
      }));
      part("forecast").hidden = false;
      part("start").focus();
    });
  });
  part("start").addEventListener("click", () => busy(async () => {
    const { n_epochs, method, ...rest } = wanted();
    const numbers = n_epochs ? { hyperparameters: { n_epochs } } : {};
    const body = { ...rest, method: { type: method, [method]: numbers } };
    if (tune.suffix.value) body.suffix = tune.suffix.value;
    part("start").disabled = true;
    await send("/v1/fine_tuning/jobs", { headers: json, body: JSON.stringify(body) });
    location.reload();
  }));
}
