// Tells whether what this stands in is looked at, and when a change of it has been drawn.

export function render({ model, view }) {
  const me = Math.random().toString(36).slice(2);  // a notebook may show the same cell twice
  let near = true, told = null;
  const say = () => {
    const on = near && !document.hidden;
    if (on === told) return;
    told = on;
    model.send_msg({ ask: "seen", on, me });
  };
  const observer = new IntersectionObserver((entries) => {
    near = entries[entries.length - 1].isIntersecting;
    say();
  }, { rootMargin: "150px 0px" });  // a little more than is seen, so that a slow scroll finds it drawn
  document.addEventListener("visibilitychange", say);
  model.on("msg:custom", (event) => {
    if (JSON.parse(event.data ?? event).do !== "draw") return;
    const began = performance.now();
    let answered = false;
    const answer = () => {
      if (!answered) model.send_msg({ ask: "drawn", took: performance.now() - began });
      answered = true;
    };
    setTimeout(answer, 2000);  // a page that was hidden meanwhile draws no frame
    requestAnimationFrame(() => setTimeout(answer, 0));
  });
  model.on("remove", () => {
    observer.disconnect();
    document.removeEventListener("visibilitychange", say);
    near = false;
    say();
  });
  setTimeout(() => {  // as in live_rows.js
    view.model.document?.create_json_patch([]);
    model.send_msg({ ask: "ready" });
    observer.observe((view.parent ?? view).el);
  }, 0);
}
