// Alerts as cards, each on its chart: candles, the lines of start, target and stop, and where its life has come to.
// Drawn here as SVG from the columns that came, so that a change costs one message with the changed card. Nothing that
// came is ever read as HTML.

const SPACE = "http://www.w3.org/2000/svg";
const element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
};
const shape = (name, attributes = {}, text = null) => {
  const made = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
};
const price = (value) => value.toLocaleString("en-US", {
  maximumFractionDigits: Math.abs(value) >= 1000 ? 2 : Math.abs(value) >= 1 ? 4 : 8 }).replace("-", "−");
const ruler = document.createElement("canvas").getContext("2d");
const widest = (texts) => {
  ruler.font = `600 11px ${getComputedStyle(document.body).fontFamily}`;  // a label's, see alerts_cards.css
  return Math.ceil(Math.max(...texts.map((text) => ruler.measureText(text).width)));
};
const clock = (at, span) => {
  const text = new Date(at).toISOString();
  return span > 4 * 86400e3 ? text.slice(0, 10) : span > 86400e3 ? text.slice(5, 16).replace("T", " ") : text.slice(11, 16);
};
const ago = (at) => {
  const seconds = Math.max((Date.now() - at) / 1000, 0);
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) if (seconds >= size) return `${Math.floor(seconds / size)} ${unit} ago`;
  return seconds < 2 ? "just now" : `${Math.floor(seconds)} s ago`;
};

const picture = (card, width, height) => {
  const { candles, levels, life } = card;
  const named = [["target", levels.target, "gain"], ["start", levels.start, "accent"], ["stop", levels.stop, "loss"]];
  if (candles.time.length) named.push(["last", candles.close[candles.close.length - 1], "muted"]);
  const words = ([name, value]) => `${name} ${price(value)}`;
  const right = width - Math.max(widest(named.map(words)) + 12, 104), bottom = height - 18, top = 8;
  const svg = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": card.said });
  const stamps = [life.detected, life.started, life.ended].filter((at) => at);
  const count = candles.time.length, step = card.step;
  const known = [...stamps, ...(count ? [candles.time[0], candles.time[count - 1] + step] : [])];
  let from = Math.min(...known), until = Math.max(...known, life.ended || !card.now ? 0 : card.now);
  if (until - from < 60e3) [from, until] = [from - 60e3, until + 60e3];
  if (!life.ended) until += (until - from) * 0.2;  // what is to come
  const x = (at) => 4 + (right - 4) * (at - from) / (until - from);
  const figures = [levels.start, levels.target, levels.stop, levels.entry, levels.exit, ...candles.low, ...candles.high].filter(Number.isFinite);
  let low = Math.min(...figures), high = Math.max(...figures);
  const room = (high - low) * 0.06 || Math.abs(high) * 0.01 || 1;
  [low, high] = [low - room, high + room];
  const y = (value) => top + (bottom - top) * (high - value) / (high - low);
  const began = x(life.detected), ends = life.ended ? Math.max(x(life.ended), began + 2) : right;

  for (const [level, tone] of [["target", "gain"], ["stop", "loss"]]) {
    const edges = [y(levels.start), y(levels[level])];
    svg.append(shape("rect", { x: began, y: Math.min(...edges), width: Math.max(ends - began, 0), height: Math.abs(edges[1] - edges[0]), class: `zone ${tone}` }));
  }
  for (let part = 0; part <= 3; part += 1) {
    const at = from + (until - from) * part / 3;
    svg.append(shape("text", { x: x(at), y: height - 4, class: "axis", "text-anchor": part === 0 ? "start" : part === 3 ? "end" : "middle" }, clock(at, until - from)));
  }
  const half = count ? Math.max(Math.min((right - 4) / Math.max((until - from) / step, 1) * 0.35, 7), 0.6) : 0;
  for (let row = 0; row < count; row += 1) {
    const [o, h, l, c] = [candles.open[row], candles.high[row], candles.low[row], candles.close[row]];
    const at = x(candles.time[row] + step / 2), tone = c >= o ? "gain" : "loss";
    svg.append(shape("line", { x1: at, x2: at, y1: y(h), y2: y(l), class: `wick ${tone}` }),
      shape("rect", { x: at - half, y: Math.min(y(o), y(c)), width: 2 * half, height: Math.max(Math.abs(y(o) - y(c)), 1), class: `body ${tone}` }));
  }
  for (const [name, value, tone] of named.slice(0, 3)) {
    svg.append(shape("line", { x1: Math.max(began - 8, 0), x2: right, y1: y(value), y2: y(value), class: `level ${tone} ${name}`, "data-level": name, "data-price": value }));
  }
  if (count) {
    const last = candles.close[count - 1];
    svg.append(shape("line", { x1: x(candles.time[count - 1] + step / 2), x2: right, y1: y(last), y2: y(last), class: "level muted" }));
  }
  const labels = named.map(([name, value, tone]) => ({ name, value, tone, at: y(value) + 4 })).sort((one, other) => one.at - other.at);
  for (let row = 1; row < labels.length; row += 1) labels[row].at = Math.max(labels[row].at, labels[row - 1].at + 13);
  const over = labels[labels.length - 1].at - (height - 8);
  if (over > 0) {
    labels[labels.length - 1].at -= over;
    for (let row = labels.length - 2; row >= 0; row -= 1) labels[row].at = Math.min(labels[row].at, labels[row + 1].at - 13);
  }
  for (const { name, value, tone, at } of labels) svg.append(shape("text", { x: right + 5, y: at, class: `label ${tone}` }, words([name, value])));
  const marks = [["detected", life.detected, levels.start, "M0,-5 L5,0 L0,5 L-5,0 Z"], ["started", life.started, levels.entry, "M-4,-5 L5,0 L-4,5 Z"],
    ["ended", life.ended, levels.exit, "M-4,-4 h8 v8 h-8 Z"]];
  for (const [name, at, value, d] of marks) {
    if (!at) continue;
    const mark = shape("path", { d, transform: `translate(${x(at).toFixed(1)},${y(Number.isFinite(value) ? value : levels.start).toFixed(1)})`, class: `mark ${name}`, "data-mark": name });
    mark.append(shape("title", {}, `${name} ${new Date(at).toISOString().slice(0, 19).replace("T", " ")} UTC`));
    svg.append(mark);
  }
  return svg;
};

export function render({ model, el, view }) {
  const grid = element("div", { class: "cards", role: "list", "aria-label": model.caption });
  const cards = new Map(), places = new Map(), large = new Set();
  const paint = (card) => {
    const place = places.get(card.id);
    const big = large.has(card.id) || model.large;
    place.classList.toggle("large", big);
    const plot = element("div", { class: "plot" });
    const grow = element("button", { type: "button", class: "grow", "aria-pressed": String(big), title: big ? "Make it small" : "Make it large",
      "aria-label": `${big ? "Make small" : "Make large"}: ${card.title}` }, big ? "−" : "+");
    grow.addEventListener("click", () => {
      if (!large.delete(card.id)) large.add(card.id);
      paint(card);
      places.get(card.id).querySelector(".grow")?.focus();
    });
    const [word, tone] = card.state;
    const facts = element("dl", {}, ...card.facts.flatMap(([name, text, kind]) => [element("div", {}, element("dt", {}, name), element("dd", { class: kind || null }, text))]));
    place.replaceChildren(...[
      element("header", {}, element("b", { class: card.direction === "BUY" ? "buy" : "sell" }, card.direction === "BUY" ? "▲ buy" : "▼ sell"),
        element("h3", {}, card.title), element("span", { class: `state is-${tone}` }, element("i", { class: "dot", "aria-hidden": "true" }), word),
        model.large ? null : grow),
      element("p", { class: "muted" }, card.about, " · ", element("time", { "data-at": life(card), title: new Date(life(card)).toISOString() }, ago(life(card)))),
      plot, facts, card.note ? element("p", { class: "muted" }, card.note) : null,
      big && card.reason ? element("p", { class: "reason" }, card.reason) : null].filter(Boolean));
    const width = Math.max(plot.clientWidth || place.clientWidth - 24 || 320, 220);
    plot.append(picture(card, width, big ? Math.min(Math.max(width * 0.4, 240), 380) : 190));
    place.dataset.state = word;
  };
  const life = (card) => card.life.ended || card.life.started || card.life.detected;
  const put = (card) => {
    cards.set(card.id, card);
    if (!places.has(card.id)) {
      const place = element("article", { class: "alert", role: "listitem", "data-id": card.id, "aria-label": `${card.title}, alert ${card.id}` });
      places.set(card.id, place);
      grid.append(place);
    }
    paint(card);
  };
  model.on("msg:custom", (event) => {
    const said = event.data ?? event;
    if (said.do === "put") said.cards.forEach(put);
    else if (said.do === "reset") {
      const wanted = said.cards.map((card) => card.id);
      for (const [id, place] of places) {
        if (!wanted.includes(id)) { place.remove(); places.delete(id); cards.delete(id); large.delete(id); }
      }
      said.cards.forEach(put);
      for (const id of wanted) grid.append(places.get(id));
    }
  });
  let seen = 0, waiting = 0;
  const sized = new ResizeObserver(() => {
    const width = grid.clientWidth;
    if (Math.abs(width - seen) < 4) return;
    seen = width;
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => { for (const card of cards.values()) paint(card); });
  });
  sized.observe(grid);
  const ticking = setInterval(() => {
    for (const each of grid.querySelectorAll("time[data-at]")) each.textContent = ago(Number(each.dataset.at));
  }, 1000);
  model.on("remove", () => { clearInterval(ticking); sized.disconnect(); });
  el.append(grid);
  setTimeout(() => {  // once the view stands
    // As in live_rows.js: without this the first word would carry the component, which the server has just added, back
    // to the server.
    view.model.document?.create_json_patch([]);
    model.send_msg({ ask: "ready" });
  }, 0);
}
