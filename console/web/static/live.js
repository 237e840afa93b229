// Says whether the page is live: what the table itself can't show when nothing changes.
(function () {
  "use strict";
  var state = document.getElementById("live-state");
  var text = document.getElementById("live-text");
  if (!state || !text) return;
  function say(kind, words) {
    state.dataset.state = kind;
    text.textContent = words;
  }
  say("waiting", "Connecting");
  document.body.addEventListener("htmx:sseOpen", function () { say("live", "Live"); });
  document.body.addEventListener("htmx:sseError", function () { say("waiting", "Reconnecting"); });
  document.body.addEventListener("htmx:sseClose", function () { say("ended", "Not live: log in again"); });
})();
