// Rows that come and change while somebody looks: a table whose cells are made here, so that a change costs one message
// with the changed rows. Nothing of a row is ever read as HTML.

const element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "class") made.className = value;
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
};

const formats = new Map();  // making one takes longer than writing a hundred numbers with it
const format = (least, most) => {
  const key = `${least} ${most}`;
  if (!formats.has(key)) {  // "negative" leaves the sign away from what rounds to nothing
    formats.set(key, new Intl.NumberFormat("en-US", { minimumFractionDigits: least, maximumFractionDigits: most, signDisplay: "negative" }));
  }
  return formats.get(key);
};
const number = (value, digits) => {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  return format(digits ?? 0, digits ?? (size >= 1000 ? 2 : size >= 1 ? 4 : 8)).format(value).replace("-", "−");
};

const ago = (at) => {
  if (!at) return "never";
  const seconds = Math.max((Date.now() - at) / 1000, 0);
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit} ago`;
  }
  return seconds < 2 ? "just now" : `${Math.floor(seconds)} s ago`;
};

const clock = (at) => {
  const text = new Date(at).toISOString();
  const today = text.slice(0, 10) === new Date().toISOString().slice(0, 10);
  return [today ? text.slice(11, 19) : text.slice(0, 19).replace("T", " "), `${text.replace("T", " ").replace("Z", "")} UTC`];
};

const spark = (values, label) => {
  const points = (values || []).filter((value) => Number.isFinite(value));
  if (points.length < 2) return element("span", { class: "muted" }, "–");
  const [width, height] = [120, 28];
  const low = Math.min(...points), span = (Math.max(...points) - low) || 1;
  const y = (value) => (2 + (height - 4) * (1 - (value - low) / span)).toFixed(1);
  const path = points.map((value, index) => `${(index * width / (points.length - 1)).toFixed(1)},${y(value)}`).join(" ");
  const space = "http://www.w3.org/2000/svg";
  const picture = document.createElementNS(space, "svg");
  for (const [key, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label,
    class: points[points.length - 1] >= points[0] ? "gain" : "loss" })) picture.setAttribute(key, value);
  const line = document.createElementNS(space, "polyline");
  for (const [key, value] of Object.entries({ points: path, fill: "none", stroke: "currentColor", "stroke-width": "1.5" })) line.setAttribute(key, value);
  picture.append(line);
  return picture;
};

const tone = (value) => (value > 0 ? "gain" : value < 0 ? "loss" : "");
const signed = (value, digits) => (value > 0 ? "+" : "") + number(value, digits);

const cells = {
  text: (cell, value) => { cell.append(value ?? ""); },
  number: (cell, value, column) => { cell.append(number(value, column.digits)); },
  money: (cell, value, column) => {
    // One figure, or one for each currency: {"USD": 1.5, "BTC": -0.1}
    const figures = value !== null && typeof value === "object" ? Object.entries(value) : [["", value]];
    if (!figures.length) { cell.append("–"); return; }
    for (const [unit, amount] of figures) {
      const shown = Number.isFinite(amount) ? (column.plain ? number(amount, 2) : signed(amount, 2)) : "–";
      cell.append(element("span", { class: column.plain ? "" : tone(amount) }, shown),
        ...(unit ? [element("span", { class: "muted" }, ` ${unit}`)] : []), element("br"));
    }
    cell.lastChild.remove();
  },
  percent: (cell, value) => {
    cell.append(Number.isFinite(value) ? element("span", { class: tone(value) }, `${signed(value * 100, 2)} %`) : "–");
  },
  time: (cell, value) => {
    if (!value) { cell.append("–"); return; }
    const [short, whole] = clock(value);
    cell.append(element("time", { datetime: new Date(value).toISOString(), title: whole }, short));
  },
  ago: (cell, value) => {
    cell.append(element("time", { "data-at": value || "", title: value ? clock(value)[1] : "nothing was ever heard" }, ago(value)));
  },
  spark: (cell, value, column, row) => { cell.append(spark(value, `${column.title} of ${row.name ?? row.id}`)); },
  side: (cell, value) => { cell.append(element("b", { class: value === "buy" ? "buy" : "sell" }, value === "buy" ? "▲ buy" : "▼ sell")); },
  state: (cell, value) => {
    const [word, kind] = Array.isArray(value) ? value : [value, ""];
    cell.append(element("span", { class: `state is-${kind || "unknown"}` }, element("i", { class: "dot", "aria-hidden": "true" }), word));
  },
  link: (cell, value, column, row) => {
    cell.append(element("a", { href: row.href }, value ?? ""));
    if (row.under) cell.append(element("div", { class: "muted" }, row.under));
  },
  line: (cell, value, column, row) => { cell.append(element("span", { class: `line ${row.tone ? `is-${row.tone}` : ""}` }, value ?? "")); },
  code: (cell, value) => { cell.append(element("code", {}, value ?? "")); },
};

const figures = new Set(["number", "money", "percent"]);
const FEW = 5;

export function render({ model, el, view }) {
  const columns = model.columns, last = model.newest === "last";
  let rows = new Map(), shown = model.page, more = false, searched = "", sorted = null, descending = true, paused = false;
  let filled = false;  // whether what belongs here is known
  const trs = new Map(), open = new Set();
  const names = columns.map((column) => {
    const head = element("th", { scope: "col", class: figures.has(column.kind) ? "num" : "" });
    if (!model.sortable || column.kind === "spark") { head.append(column.title); return head; }
    const button = element("button", { type: "button", class: "sort" }, column.title);
    button.addEventListener("click", () => {
      [sorted, descending] = sorted === column.key ? [column.key, !descending] : [column.key, column.kind !== "text" && column.kind !== "link"];
      for (const each of names) each.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      draw();
    });
    head.append(button);
    return head;
  });
  const body = element("tbody");
  const table = element("table", { class: model.bare ? "bare" : "" }, element("caption", { class: "hidden" }, model.caption),
    element("thead", { class: model.bare ? "hidden" : "" }, element("tr", {}, ...names)), body);
  const scroll = element("div", { class: "rows", tabindex: "0", role: "region", "aria-label": model.caption });
  // With more than a few rows it keeps its height: whenever it grew, all that stands around it would be laid out anew.
  const hold = (count) => { if (model.tall) scroll.style.height = count > FEW ? `${model.tall}px` : ""; };
  if (model.tall) scroll.style.maxHeight = `${model.tall}px`;
  const empty = element("p", { class: "empty" }, model.placeholder);
  const further = element("button", { type: "button", class: "more" }, last ? "Load earlier" : "Load more");
  const note = element("span", { class: "muted", role: "status" });
  const tools = element("div", { class: "tools" });

  if (model.searchable) {
    const search = element("input", { type: "search", placeholder: model.searchable, "aria-label": model.searchable });
    let waiting;
    search.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => {
        searched = search.value.trim().toLowerCase();
        shown = model.page;
        if (model.asks) model.send_msg({ ask: "search", text: search.value.trim(), type: types.value });
        else draw();
      }, 200);
    });
    tools.append(search);
  }
  const types = element("select", { "aria-label": "Only this type" }, element("option", { value: "" }, "all types"));
  const offered = (given) => {
    for (const type of given) {
      if (type && ![...types.options].some((option) => option.value === type)) types.append(element("option", { value: type }, type));
    }
    types.hidden = types.options.length < 3 && !types.value;
  };
  if (model.types.length || model.typed) {
    offered(model.types);
    types.addEventListener("change", () => {
      if (model.asks) {
        model.send_msg({ ask: "search", text: tools.querySelector("input")?.value.trim() ?? "", type: types.value });
      } else draw();
    });
    tools.append(types);
  }
  if (model.pausable) {
    const pause = element("button", { type: "button", "aria-pressed": "false" }, "Pause");
    pause.addEventListener("click", () => {
      paused = !paused;
      pause.textContent = paused ? "Go on" : "Pause";
      pause.setAttribute("aria-pressed", String(paused));
      model.send_msg({ ask: "pause", on: paused, last: [...rows.keys()].pop() });
    });
    tools.append(pause);
  }
  tools.append(note);

  const cellsOf = (row) => columns.map((column) => {
    const cell = element("td", { class: `${figures.has(column.kind) ? "num" : ""} ${column.kind}` });
    cells[column.kind](cell, row[column.key], column, row);
    return cell;
  });
  const toggle = (row, tr) => {
    if (open.delete(row.id)) { tr.nextElementSibling?.classList.contains("detail") && tr.nextElementSibling.remove(); }
    else { open.add(row.id); tr.after(detail(row)); }
    tr.setAttribute("aria-expanded", String(open.has(row.id)));
  };
  const detail = (row) => {
    const list = element("dl", { class: "facts" });
    for (const [name, value] of Object.entries(row.detail)) {
      const text = typeof value === "string" ? value : JSON.stringify(value, null, 2);
      list.append(element("dt", {}, name), element("dd", {}, /\n/.test(text) ? element("pre", {}, text) : text));
    }
    return element("tr", { class: "detail" }, element("td", { colspan: columns.length }, list));
  };
  const make = (row) => {
    const tr = element("tr", { "data-id": row.id, tabindex: row.detail || model.picks ? "0" : null,
      "aria-expanded": row.detail ? "false" : null }, ...cellsOf(row));
    if (row.detail || model.picks) {
      const chosen = () => {
        const now = rows.get(row.id) ?? row;
        if (now.detail) toggle(now, tr);
        if (model.picks) { mark(row.id); model.send_msg({ ask: "pick", id: row.id }); }
      };
      tr.addEventListener("click", (event) => { if (!event.target.closest("a, pre") && !getSelection().toString()) chosen(); });
      tr.addEventListener("keydown", (event) => {
        if (event.target === tr && (event.key === "Enter" || event.key === " ")) { event.preventDefault(); chosen(); }
      });
    }
    return tr;
  };
  const mark = (id) => {
    for (const tr of trs.values()) tr.classList.toggle("picked", tr.dataset.id === id);
  };
  const fits = (row) => (model.asks || !searched || (row.find ?? "").toLowerCase().includes(searched))
    && (model.asks || !types.value || row.type === types.value);
  const value = (row) => {
    const found = row[`${sorted}_by`] ?? row[sorted];
    return found !== null && typeof found === "object" ? Object.values(found)[0] : found;
  };
  const kept = () => {
    const found = [...rows.values()].filter(fits);
    if (sorted) {
      found.sort((one, other) => {
        const [a, b] = [value(one), value(other)];
        if (a === b) return 0;
        if (a === null || a === undefined) return 1;
        if (b === null || b === undefined) return -1;
        return (a < b ? -1 : 1) * (descending ? -1 : 1);
      });
    }
    return found;
  };
  const frame = (count) => {
    hold(count);
    empty.hidden = count > 0;
    empty.textContent = !filled ? (model.placeholder && "Loading …") : rows.size || searched || types.value ? "Nothing fits."
      : model.placeholder;
    table.hidden = !count;
    further.hidden = model.page > 0 && !model.asks && !more ? count <= shown : !more;
  };
  const draw = () => {
    const found = kept();
    const now = model.page > 0 && !model.asks ? found.slice(0, shown) : found;
    trs.clear();
    body.replaceChildren(...now.flatMap((row) => {
      const tr = make(row);
      trs.set(row.id, tr);
      if (!row.detail) open.delete(row.id);
      if (!open.has(row.id)) return [tr];
      tr.setAttribute("aria-expanded", "true");
      return [tr, detail(row)];
    }));
    frame(found.length);
  };
  // A still mark, not an animation: sixty frames a second for each order would cost more than all the rest.
  const highlight = (tr) => {
    if (columns.length < 5) return;
    tr.classList.add("new");
    setTimeout(() => tr.classList.remove("new"), 2000);
  };
  const atEnd = () => scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 40;
  const put = (given) => {
    const follow = last && atEnd();
    let fresh = false;
    for (const row of given) {
      const known = rows.has(row.id);
      rows.set(row.id, row);
      if (known) {
        const before = trs.get(row.id);
        if (!before) continue;
        before.replaceChildren(...cellsOf(row));
        if (!row.quiet) highlight(before);
        if (open.has(row.id)) before.nextElementSibling.replaceWith(detail(row));
      } else if (model.page > 0) fresh = true;
      else {
        if (!last) rows = new Map([[row.id, row], ...[...rows].filter(([id]) => id !== row.id)]);
        const tr = make(row);
        highlight(tr);
        trs.set(row.id, tr);
        if (last) body.append(tr); else body.prepend(tr);
      }
    }
    while (rows.size > model.most) {  // the oldest go; the server has them
      const id = last ? rows.keys().next().value : [...rows.keys()].pop();
      rows.delete(id);
      const tr = trs.get(id);
      if (open.delete(id)) tr?.nextElementSibling?.remove();
      tr?.remove();
      trs.delete(id);
      more = true;
    }
    if (fresh) draw(); else frame(trs.size);
    if (follow) scroll.scrollTop = scroll.scrollHeight;
  };
  const hear = (text) => {
    const said = JSON.parse(text);
    if (said.rows && model.typed) offered(said.rows.map((row) => row.type));
    filled = filled || said.do === "put" || Boolean(said.filled);
    if (said.do === "reset") {
      rows = new Map(said.rows.map((row) => [row.id, row]));
      more = said.more;
      draw();
      if (last) scroll.scrollTop = scroll.scrollHeight;
    } else if (said.do === "put") {
      if (!paused) put(said.rows);  // else it was on its way while the button was pressed: the server counts it
    } else if (said.do === "more") {
      const before = scroll.scrollHeight;
      more = said.more;
      rows = last ? new Map([...said.rows.map((row) => [row.id, row]), ...rows]) : new Map([...rows, ...said.rows.map((row) => [row.id, row])]);
      draw();
      if (last) scroll.scrollTop += scroll.scrollHeight - before;
    } else if (said.do === "pick") {
      mark(said.id);
      trs.get(said.id)?.scrollIntoView({ block: "nearest" });
    }
    if (said.note !== undefined && said.note !== null) note.textContent = said.note;
  };
  model.on("msg:custom", (event) => hear(event.data ?? event));
  further.addEventListener("click", () => {
    if (model.page > 0 && !model.asks && !more) { shown += model.page; draw(); } else model.send_msg({ ask: "more" });
  });
  const ticking = setInterval(() => {
    for (const each of body.querySelectorAll("time[data-at]")) {
      const said = ago(Number(each.dataset.at));
      if (each.textContent !== said) each.textContent = said;
    }
  }, 1000);
  model.on("remove", () => clearInterval(ticking));
  const parts = last ? [further, table, empty] : [table, empty, further];
  scroll.append(...parts);
  el.append(...(tools.children.length > 1 || model.searchable ? [tools] : []), scroll);
  frame(0);
  setTimeout(() => {  // once the view stands
    // Bokeh takes models that the server has just added for new ones of the browser until something is sent: without
    // this the first word would carry the whole component back to the server, which complains that it knows it.
    view.model.document?.create_json_patch([]);
    if (model.known) hear(model.known);  // it came with the page
    model.send_msg({ ask: "ready", version: model.version });
  }, 0);
}
