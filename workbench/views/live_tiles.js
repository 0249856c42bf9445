// Figures on top of a page: a change costs one message with the figures, and nothing is drawn anew that stays.

const element = (name, kind, text) => {
  const made = document.createElement(name);
  made.className = kind;
  made.textContent = text;
  return made;
};

export function render({ model, el, view }) {
  const tiles = document.createElement("div");
  tiles.className = "tiles";
  el.append(tiles);
  const hear = (text) => {
    const said = JSON.parse(text);
    tiles.replaceChildren(...said.tiles.map(([name, value, tone]) => {
      const tile = element("div", "tile", "");
      const [, amount, unit] = value.match(/^(.*?)( [A-Z0-9]{2,8})?$/);
      const figure = element("b", tone, amount);
      if (unit) figure.append(element("small", "", unit));
      tile.append(element("span", "", name), figure);
      return tile;
    }));
  };
  model.on("msg:custom", (event) => hear(event.data ?? event));
  setTimeout(() => {  // as in live_rows.js
    view.model.document?.create_json_patch([]);
    if (model.known) hear(model.known);  // it came with the page
    model.send_msg({ ask: "ready", version: model.version });
  }, 0);
}
