// A change of a page waits while parts of the page are being built. Bokeh makes it at once, although it builds what is
// added bit by bit: a change of a field that is connected but not yet drawn then fails, and with it all that came in the
// same message; and two changes of one layout build its parts twice.
(() => {
  "use strict";
  const LONGEST = 10_000;  // milliseconds to wait for a part that never stands
  const builds = new Set();
  const views = window.Bokeh.require("core/build_views"), { build_views } = views;
  views.build_views = (...given) => {
    const built = build_views(...given);
    const stands = new Promise((done) => {
      const late = setTimeout(done, LONGEST);
      built.catch(() => null).then(() => { clearTimeout(late); done(); });
    }).then(() => builds.delete(stands));
    builds.add(stands);
    return built;
  };
  const drawn = () => new Promise((done) => {  // those who asked for the parts draw them before the next task
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = done;
    port2.postMessage(null);
  });

  const { ClientSession } = window.Bokeh.require("client/session");
  const make = ClientSession.prototype._handle_patch;
  let waiting = null;
  ClientSession.prototype._handle_patch = function (message) {
    if (!waiting && !builds.size) { make.call(this, message); return; }
    const turn = async (before) => {
      await before;
      while (builds.size) { await Promise.all(builds); await drawn(); }
      make.call(this, message);
    };
    const mine = waiting = turn(waiting).catch(window.reportError).then(() => { if (waiting === mine) waiting = null; });
  };
})();
