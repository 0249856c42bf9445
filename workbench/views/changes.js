// A change of a page waits while parts of the page are being built. Bokeh makes it at once, although it builds what is
// added bit by bit: a change of a field that is connected but not yet drawn then fails, and with it all that came in the
// same message; and two changes of one layout build its parts twice.
(() => {
  "use strict";
  const LONGEST = 10_000;  // milliseconds to wait for parts that never stand
  const builds = new Set();
  const views = window.Bokeh.require("core/build_views"), { build_views } = views;
  views.build_views = (...given) => {
    const built = build_views(...given);
    const stands = built.catch(() => null).then(() => builds.delete(stands));
    builds.add(stands);
    return built;
  };
  const drawn = () => new Promise((done) => setTimeout(done));  // those who asked for the parts draw them before that
  const all = async () => {
    while (builds.size) { await Promise.all(builds); await drawn(); }
  };
  const ready = () => new Promise((done) => {
    const late = setTimeout(() => { builds.clear(); done(); }, LONGEST);
    all().then(() => { clearTimeout(late); done(); });
  });

  const { ClientSession } = window.Bokeh.require("client/session");
  const make = ClientSession.prototype._handle_patch;
  let waiting = null;
  ClientSession.prototype._handle_patch = function (message) {
    if (!waiting && !builds.size) { make.call(this, message); return; }
    const turn = async (before) => {
      await before;
      await ready();
      make.call(this, message);
    };
    const mine = waiting = turn(waiting).catch((error) => window.reportError(error)).then(() => {
      if (waiting === mine) waiting = null;
    });
  };
})();
