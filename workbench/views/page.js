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
  const watch = () => {
    const documents = (window.Bokeh && window.Bokeh.documents) || [];
    if (!documents.length) { setTimeout(watch, 100); return; }
    documents[0].on_event("connection_lost", wait);
    document.documentElement.dataset.ready = "yes";
  };
  let leaving = false;
  window.addEventListener("beforeunload", () => { leaving = true; });
  const guarded = wait;
  watch();
  void guarded; void leaving;
})();
