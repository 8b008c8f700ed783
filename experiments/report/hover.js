// Reads values off figures: by pointer, by touch, or with the arrow keys.
for (const plot of document.querySelectorAll('.plot')) {
  const lines = JSON.parse(plot.dataset.hover);
  const both = plot.dataset.near === 'both';
  const places = [...new Set(lines.flatMap(l => l.points.map(p => p[0])))]
    .sort((a, b) => a - b);
  let extra = [], place = -1;

  const add = (kind, style) => {
    const made = document.createElement('div');
    made.className = kind;
    Object.assign(made.style, style);
    plot.append(made);
    extra.push(made);
    return made;
  };
  const clear = () => { extra.forEach(x => x.remove()); extra = []; };
  const nearest = (points, far) => points.reduce(
    (best, p) => far(p) < far(best) ? p : best, points[0]);

  function show(x, y) {
    clear();
    const width = plot.clientWidth, height = plot.clientHeight - 24;
    const far = p => both ? Math.hypot((p[0] - x) * width / 100, p[1] - y)
                          : Math.abs(p[0] - x);
    let found = lines.filter(l => l.points.length)
      .map(l => ({ line: l, point: nearest(l.points, far) }));
    if (!found.length) return;
    const best = nearest(found.map(f => f.point), far);
    found = both ? found.filter(f => f.point === best).slice(0, 1)
      : found.filter(f => Math.abs(f.point[0] - best[0]) < 0.8);
    found.sort((a, b) => a.point[1] - b.point[1]);
    if (!both) add('cursor', { left: best[0] + '%', height: height + 'px' });
    for (const f of found)
      add('dot', { left: f.point[0] + '%', top: f.point[1] + 'px',
                   background: f.line.color });
    const tip = add('tip', { top: '0', left: '0' });
    tip.append(plot.dataset.place + best[2]);
    const shown = found.slice(0, 12);
    for (const f of shown) {
      const row = document.createElement('div');
      const swatch = document.createElement('i');
      swatch.style.background = f.line.color;
      row.append(swatch, (f.line.name ? f.line.name + ': ' : '') + f.point[3]);
      tip.append(row);
    }
    if (found.length > shown.length)
      tip.append(`and ${found.length - shown.length} more`);
    const at = best[0] * width / 100, gap = 12;
    const right = at + gap + tip.offsetWidth <= width;
    tip.style.left = Math.max(0, Math.min(width - tip.offsetWidth,
      right ? at + gap : at - gap - tip.offsetWidth)) + 'px';
    if (both) tip.style.top = Math.max(0, best[1] - tip.offsetHeight - 8) + 'px';
  }

  plot.addEventListener('pointermove', e => {
    const box = plot.getBoundingClientRect();
    show((e.clientX - box.left) / box.width * 100, e.clientY - box.top);
  });
  plot.addEventListener('pointerleave', clear);
  plot.addEventListener('blur', clear);
  plot.addEventListener('keydown', e => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
    if (!step || !places.length) return;
    e.preventDefault();
    place = Math.max(0, Math.min(places.length - 1, place + step));
    const y = lines.flatMap(l => l.points).find(p => p[0] === places[place])[1];
    show(places[place], y);
  });
}
