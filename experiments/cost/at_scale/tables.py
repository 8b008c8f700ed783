"""The time of each way over that of the plain mean, as Markdown tables.

  python -m experiments.cost.at_scale.tables
"""

from experiments.cost.at_scale import exchanges, networks

SIZE = 1_000_000_000
COUNTS = (8, 64, 512, 4096)


def seconds(
  exchange: exchanges.Exchange, network: networks.Torus | networks.Hosts,
  n: int,
) -> float:
  """Add up the collectives and the Gram matrix, none of which overlap.

  >>> mean = exchanges.FLAT['mean'](1_000_000_000, 8)
  >>> f'{seconds(mean, networks.GPU_HOSTS, 8):.4f}'
  '0.0156'

  Inside one host each of eight GPUs sends 7 GB at 450 GB/s.
  """
  return exchange.flops / network.flops + sum(
    network.seconds(collective, n) for collective in exchange.collectives)


def ways(
  network: networks.Torus | networks.Hosts, n: int, size: float,
) -> dict[str, exchanges.Exchange]:
  """Return the exchange of each way, flat ones first, where it makes sense."""
  made = {name: way(size, n) for name, way in exchanges.FLAT.items()}
  group, num_groups = network.parts(n)
  if num_groups > 1:
    made |= {name: way(size, group, num_groups)
             for name, way in exchanges.HIERARCHICAL.items()}
  return made


def table(name: str, size: float = SIZE) -> str:
  """Lay out the ratios on one network, the mean first with its time."""
  network = networks.NETWORKS[name]
  lines = [f'| {name} | ' + ' | '.join(f'{n:,} chips' for n in COUNTS) + ' |',
           '|---' * (len(COUNTS) + 1) + '|']
  columns = {n: ways(network, n, size) for n in COUNTS}
  for way in (*exchanges.FLAT, *exchanges.HIERARCHICAL):
    cells = []
    for n, made in columns.items():
      if way not in made:
        cells.append('')
        continue
      mean = seconds(made['mean'], network, n)
      own = seconds(made[way], network, n)
      cells.append(f'{1e3 * mean:.3g} ms' if way == 'mean'
                   else f'{own / mean:.2f}' if own < 10 * mean
                   else f'{own / mean:.0f}')
    lines.append(f'| {way} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def main() -> None:
  """Print the tables of docs/at_scale.md."""
  print('\n\n'.join(table(name) for name in networks.NETWORKS))


if __name__ == '__main__':
  main()
