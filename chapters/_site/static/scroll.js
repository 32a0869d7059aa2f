// What scrolls sideways can be scrolled with the keyboard too: it takes the focus for as long as it
// is wider than its place. The theme sees to that for what is on screen when the page opens; here
// are the equations too, and what is shown only later, such as the code of a solution.

const SCROLLS =
  "pre, div.math, mjx-container[display=true], .cell_output > .output, .pst-scrollable-table-container";

const widths = new ResizeObserver((entries) => {
  for (const { target } of entries)
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
});

function scrollWithKeys(root) {
  for (const element of root.querySelectorAll(SCROLLS)) widths.observe(element);
}

scrollWithKeys(document);
