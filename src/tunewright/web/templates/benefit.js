"use strict";
{
  const main = document.getElementById("main");
  const start = JSON.parse(main.dataset.state);
  const inputs = [...document.querySelectorAll(".sliders input")];
  const first = inputs.map((input) => input.value);
  const number = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
  const sign = (value) => (value < 0 ? "−" : "");
  const money = (value) => {
    const size = Math.abs(value);
    if (!Number.isFinite(size)) return "–";
    if (size >= 1e6) return `${sign(value)}$${(size / 1e6).toFixed(2)}M`;
    const digits = size >= 1000 ? 0 : size >= 0.1 || size === 0 ? 2 : 4;
    return sign(value) + "$" + size.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  };
  const annuity = (months) => (start.monthly === 1 ? months : (1 - start.monthly ** -months) / (start.monthly - 1));
  const each = (now, gain) => start.saved + gain * start.relevance * now.error_usd;
  const npv = (now, gain) => (now.requests * each(now, gain) - start.month_usd) * annuity(now.months) - now.build_usd;
  const words = {
    requests: (v) => number.format(Math.round(v)),
    error_usd: money,
    build_usd: money,
    gain: (v) => `${sign(v)}${Math.abs(100 * v).toFixed(1)}`,
    months: (v) => String(v),
  };
  const show = (id, text) => { document.getElementById(id).textContent = text; };
  const read = () => {
    const now = {};
    for (const input of inputs) {
      const at = Number(input.value);
      const moved = input.value !== first[inputs.indexOf(input)];
      const exact = { gain: at / 100, months: Math.round(at) }[input.name] ?? 10 ** at;
      now[input.name] = moved ? exact : start[input.name];
      show("out-" + input.name, words[input.name](now[input.name]));
    }
    return now;
  };
  const draw = () => {
    const now = read();
    const month = now.requests * each(now, now.gain) - start.month_usd;
    const shift = now.gain - start.gain;
    const wins = start.quantiles.filter((q) => npv(now, q + shift) > 0).length;
    const wanted = now.build_usd / now.months + start.month_usd;
    const gain = each(now, now.gain);
    const back = now.build_usd / month;
    show("now-npv", money(npv(now, now.gain)));
    show("now-chance", Math.round((100 * wins) / start.quantiles.length) + "%");
    show("now-month", money(month));
    show("now-back", month > 0 ? `${Math.max(0, back).toFixed(1)} months` : "never");
    show("now-even", wanted <= 0 ? "0" : gain > 0 ? number.format(Math.ceil(wanted / gain)) : "none");
  };
  for (const input of inputs) input.addEventListener("input", draw);
  document.getElementById("reset").addEventListener("click", () => {
    inputs.forEach((input, i) => { input.value = first[i]; });
    draw();
  });
  inputs.forEach((input, i) => { first[i] = input.value; });
  draw();
  for (const box of document.querySelectorAll(".chart[data-lines]")) {
    const lines = JSON.parse(box.dataset.lines);
    const plot = box.querySelector("svg.plot");
    const told = document.createElement("div");
    told.className = "readout";
    told.hidden = true;
    box.append(told);
    plot.addEventListener("pointermove", (event) => {
      const frame = plot.getBoundingClientRect();
      const share = (event.clientX - frame.left) / frame.width;
      const near = (line) => line.points.reduce((a, b) => (Math.abs(b[0] - share) < Math.abs(a[0] - share) ? b : a));
      told.textContent = lines.map((line) => `${line.name}: ${near(line)[2]}`).join(" · ") + ` at ${near(lines[0])[1]} a month`;
      told.hidden = false;
    });
    plot.addEventListener("pointerleave", () => { told.hidden = true; });
  }
}
