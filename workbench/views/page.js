(() => {
  "use strict";
  const remember = (theme) => {
    document.cookie = `wb_theme=${theme}; path=/; max-age=31536000; SameSite=Lax`;
  };
  if (!document.cookie.includes("wb_theme=") && window.matchMedia("(prefers-color-scheme: dark)").matches
      && document.documentElement.dataset.theme !== "dark") {
    remember("dark");
    if (document.cookie.includes("wb_theme=")) window.location.reload();
  }
  const button = document.getElementById("wb-theme");
  button.addEventListener("click", () => {
    remember(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
    window.location.reload();
  });
  document.querySelector(".wb-skip").addEventListener("click", (event) => {
    event.preventDefault();
    document.getElementById("wb-main").focus();
  });

  // What a chart shows, in words: what is drawn, from where to where, and where it ends.
  const figure = (value) => value.toLocaleString("en-US", { maximumSignificantDigits: 6, signDisplay: "negative" });
  const instant = (value) => new Date(value).toISOString().slice(0, 16).replace("T", " ");
  const label = (axes) => (axes && axes[0] && typeof axes[0].axis_label === "string" ? axes[0].axis_label : "");
  const shown = (chart) => {
    const parts = [];
    const dated = Boolean(chart.below[0] && chart.below[0].type === "DatetimeAxis");
    for (const renderer of chart.renderers) {
      const field = renderer.visible && renderer.glyph && renderer.glyph.y && renderer.glyph.y.field;
      const values = field ? Array.from(renderer.data_source.get_column(field) || []).filter(Number.isFinite) : [];
      if (!values.length) continue;
      const [low, high] = values.reduce(([least, most], value) => [Math.min(least, value), Math.max(most, value)],
        [Infinity, -Infinity]);
      const name = renderer.name || (field === "value" || field === "y" ? label(chart.left) || "values" : field);
      const count = values.length === 1 ? "one point" : `${figure(values.length)} points`;
      parts.push(`${name}: ${count}, ${figure(low)} to ${figure(high)}, last ${figure(values[values.length - 1])}`);
    }
    const { start, end } = chart.x_range;
    if (Number.isFinite(start) && Number.isFinite(end)) {
      const say = dated ? instant : figure;
      parts.push(`${label(chart.below) || (dated ? "time" : "from left to right")}: ${say(start)} to ${say(end)}`);
    }
    return parts.slice(0, 8).join("; ");
  };
  const charts = () => {
    const found = new Map();
    const index = window.Bokeh && window.Bokeh.index;
    if (index && index.query) for (const view of index.query((one) => one.model.type === "Figure")) found.set(view.el, view.model);
    return found;
  };

  // What Bokeh's widgets do not say of themselves to keyboards and screen readers. A walk in the order of the page
  // gives every chart the heading above it as its name, and a description; parts come late and charts change, so the
  // walk is repeated. Rows of tables have nothing of this kind and are left out: there may be thousands.
  const describe = () => {
    let heading = document.title.split(" · ")[0];
    const models = charts();
    const walk = (root) => {
      const elements = document.createTreeWalker(root, NodeFilter.SHOW_ELEMENT, (node) => (
        node.tagName === "TBODY" ? NodeFilter.FILTER_REJECT : NodeFilter.FILTER_ACCEPT));
      while (elements.nextNode()) {
        const element = elements.currentNode;
        const kind = element.classList;
        if (element.matches("h1, h2, h3, caption")) heading = element.textContent.trim();
        else if (kind.contains("bk-Figure")) {
          const chart = models.get(element);
          const told = chart ? shown(chart) : "";
          if (!element.hasAttribute("aria-label")) {
            element.setAttribute("role", "figure");
            element.setAttribute("aria-label", `Chart: ${heading}`);
          }
          if (told && element.getAttribute("aria-description") !== told) element.setAttribute("aria-description", told);
        } else if (kind.contains("bk-tab")) {
          element.setAttribute("role", "tab");
          element.setAttribute("aria-selected", String(kind.contains("bk-active")));
          if (element.tabIndex !== 0) element.tabIndex = 0;
          if (element.parentElement) element.parentElement.setAttribute("role", "tablist");
        } else if (element.matches("input[type=checkbox]:not([aria-label])") && !(element.labels || []).length) {
          const label = element.nextElementSibling;
          const around = label && label.classList.contains("bk-label") ? label
            : element.parentElement || element.getRootNode().host;
          const words = ((around.innerText || around.textContent || element.getRootNode().textContent) || "").trim();
          element.setAttribute("aria-label", words || (element.closest(".tabulator-row") ? "Choose this row" : "Choose all"));
        } else if (kind.contains("bk-events") && !element.hasAttribute("aria-label")) {
          element.setAttribute("aria-label", `Chart: ${heading}`);
        } else if (element.tabIndex === 0 && !element.hasAttribute("aria-label") && element.title) {
          element.setAttribute("aria-label", element.title);
        }
        if (element.shadowRoot) walk(element.shadowRoot);
      }
    };
    walk(document.getElementById("wb-main"));
  };
  document.addEventListener("keydown", (event) => {
    const target = event.composedPath()[0];
    if (!(target instanceof HTMLElement) || !target.classList.contains("bk-tab")) return;
    const step = { ArrowRight: "nextElementSibling", ArrowLeft: "previousElementSibling" }[event.key];
    if (step && target[step]) target[step].focus();
    else if (event.key !== "Enter" && event.key !== " ") return;
    else target.click();
    event.preventDefault();
  });
  setInterval(() => { if (!document.hidden) describe(); }, 2000);
  document.addEventListener("click", async (event) => {
    const button = event.composedPath()[0];
    if (!(button instanceof HTMLElement) || !button.classList.contains("wb-copy")) return;
    await navigator.clipboard.writeText(button.previousElementSibling.textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });

  // When the socket is lost the page says so, waits until the server answers again, and loads itself anew.
  let waiting = false;
  const wait = () => {
    if (waiting) return;
    waiting = true;
    document.getElementById("wb-lost").hidden = false;
    let pause = 400;
    const ask = async () => {
      try {
        const answer = await fetch("/healthz", { cache: "no-store" });
        if (answer.ok) { window.location.reload(); return; }
      } catch (error) { /* still away */ }
      pause = Math.min(pause * 1.5, 5000);
      setTimeout(ask, pause);
    };
    setTimeout(ask, pause);
  };
  // The page's view says where to go, or what address to show.
  const listen = (address) => {
    if (!address) return;
    const act = () => {
      const [verb, path] = [address.value.slice(0, 2), address.value.slice(3)];
      if (verb === "go") window.location.assign(path);
      if (verb === "at") window.history.replaceState(null, "", path);
    };
    address.connect(address.properties.value.change, act);
    act();
  };
  const watch = () => {
    const documents = (window.Bokeh && window.Bokeh.documents) || [];
    if (!documents.length) { setTimeout(watch, 100); return; }
    documents[0].on_event("connection_lost", wait);
    listen([...documents[0].all_models].find((model) => (model.css_classes || []).includes("wb-address")));
    document.documentElement.dataset.ready = "yes";
  };
  // Bokeh closes a connection whose messages it cannot read with a code that browsers refuse, and then hears no more.
  window.addEventListener("error", (event) => { if (/'close' on 'WebSocket'/.test(event.message)) wait(); });
  watch();
})();
