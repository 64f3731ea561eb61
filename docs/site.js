// Tables that are wider than the page are scrolled by keys too.
new MutationObserver(() => {
  for (const wrap of document.querySelectorAll(".md-typeset__scrollwrap:not([tabindex])")) {
    if (wrap.scrollWidth > wrap.clientWidth) wrap.tabIndex = 0
  }
}).observe(document.body, { childList: true, subtree: true })
