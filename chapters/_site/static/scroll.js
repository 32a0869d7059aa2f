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
  watchLines(root);
}

// A formula in a line of text that is wider than the line scrolls by itself. Only that one does: a box
// that scrolls has no baseline to stand on.

const LINES = "p, li, dd, td, th, figcaption, h1, h2, h3, h4";
const formulas = new Map(); // of each block of text, those in its lines

const fit = (block) => {
  const inside = [...(formulas.get(block) || [])].filter((formula) => formula.isConnected);
  const { paddingLeft, paddingRight } = getComputedStyle(block);
  const room = block.clientWidth - parseFloat(paddingLeft) - parseFloat(paddingRight);
  if (!room) return; // folded away
  for (const formula of inside) {
    const wide = formula.firstElementChild.getBoundingClientRect().width > room + 0.5;
    formula.classList.toggle("gdm-wide", wide);
    if (wide) formula.tabIndex = 0;
    else formula.removeAttribute("tabindex");
  }
};
const lines = new ResizeObserver((entries) => entries.forEach(({ target }) => fit(target)));

function watchLines(root) {
  const containers = root.matches?.("mjx-container") ? [root] : root.querySelectorAll("mjx-container");
  for (const formula of containers) {
    const block = !formula.hasAttribute("display") && formula.closest(LINES);
    if (!block) continue;
    if (!formulas.has(block)) formulas.set(block, new Set());
    formulas.get(block).add(formula);
    lines.unobserve(block); // so that what it holds now is looked at
    lines.observe(block);
  }
}

scrollWithKeys(document);
