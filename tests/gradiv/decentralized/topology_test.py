"""Mixing matrices: doubly stochastic, with known spectra."""

import functools

import numpy as np
from absl.testing import absltest, parameterized

from gradiv.decentralized import topology

NAMED = (
  ('complete', topology.complete), ('ring', topology.ring),
  ('exponential', topology.exponential), ('star', topology.star),
  ('torus', lambda n: topology.torus(n, 3)),
  ('metropolis', lambda n: topology.metropolis(np.ones((n, n)))),
  ('hierarchical', lambda n: topology.hierarchical(
    topology.ring(n), topology.complete(2))),
  ('lazy', lambda n: topology.lazy(topology.ring(n))),
)
SEQUENCES = (
  ('one_peer_exponential', topology.one_peer_exponential),
  ('one_peer_hypercube', topology.one_peer_hypercube),
)


def product(bank):
  return functools.reduce(lambda x, y: y @ x, bank)


class MatricesTest(parameterized.TestCase):

  @parameterized.named_parameters(*NAMED)
  def test_doubly_stochastic_for_any_number(self, make):
    for n in (1, 2, 3, 4, 5, 8, 12):
      w = topology.check(make(n))[0]
      self.assertEqual(len(w), n * {'torus': 3, 'hierarchical': 2}.get(
        self.id().rsplit('_', 1)[-1], 1))

  @parameterized.parameters(4, 5, 8, 12, 32)
  def test_gap_of_the_ring(self, n):
    rho = max(abs(1 + 2 * np.cos(2 * np.pi * k / n)) / 3
              for k in range(1, n))
    self.assertAlmostEqual(topology.spectral_gap(topology.ring(n)), 1 - rho)
    if n % 2 == 0:
      self.assertAlmostEqual(
        topology.least_eigenvalue(topology.ring(n)), -1 / 3)

  def test_known_gaps(self):
    gap = topology.spectral_gap
    self.assertAlmostEqual(gap(topology.complete(7)), 1)
    for m in (4, 6, 8):
      self.assertAlmostEqual(gap(topology.torus(m, m)), 1 - max(
        (3 + 2 * np.cos(2 * np.pi / m)) / 5, 3 / 5))
      self.assertAlmostEqual(
        topology.least_eigenvalue(topology.torus(m, m)), -3 / 5)
    for p in (1, 2, 3, 5):
      w = topology.hypercube(2**p)
      self.assertAlmostEqual(gap(w), 2 / (1 + p))
      self.assertAlmostEqual(
        topology.least_eigenvalue(w), -(p - 1) / (p + 1))
    for n in (4, 6, 8, 10, 12, 24, 64):
      self.assertAlmostEqual(
        gap(topology.exponential(n)), 2 / (1 + np.ceil(np.log2(n))))
    for n in (7, 9, 15):  # odd: larger
      self.assertGreater(
        gap(topology.exponential(n)), 2 / (1 + np.ceil(np.log2(n))) + 1e-3)
    self.assertAlmostEqual(gap(topology.star(9)), 1 / 9)
    ring = topology.ring(8)
    self.assertAlmostEqual(
      gap(topology.lazy(ring)), 1 - (1 + (1 + 2**0.5) / 3) / 2)
    self.assertGreaterEqual(
      topology.least_eigenvalue(topology.lazy(ring)), -1e-12)
    # The slower of the two levels decides.
    self.assertAlmostEqual(gap(topology.hierarchical(
      ring, topology.complete(4))), gap(ring))

  def test_effective_neighbors(self):
    count = topology.effective_neighbors
    for decay, ring, cube in (
        (0., 3., 6.), (.5, 3.72, 8.90), (.9, 6.63, 19.6), (.99, 17.1, 30.)):
      self.assertAlmostEqual(count(topology.ring(32), decay), ring,
                             delta=0.05)
      self.assertAlmostEqual(count(topology.hypercube(32), decay), cube,
                             delta=0.05)
      self.assertAlmostEqual(count(topology.complete(5), decay), 5)
      self.assertAlmostEqual(count(np.eye(5), decay), 1)

  @parameterized.parameters(
    ('ring', .17, .200), ('hypercube', .21, .233), ('complete', .28, .276))
  def test_rate_on_isotropic_quadratics(self, name, best_rate, best):
    # E x xᵀ of the workers moves by C ← W ((1 − η)² C + M η² diag C) Wᵀ.
    w, noise = getattr(topology, name)(8), 21
    rates = np.arange(0.01, 0.4, 0.01)
    seen = [topology.isotropic_rate(w, rate, noise) for rate in rates]
    self.assertAlmostEqual(max(seen), best, delta=6e-4)
    self.assertAlmostEqual(rates[np.argmax(seen)], best_rate)
    for rate in (best_rate, 0.05):
      c = np.eye(8)
      for _ in range(3000):
        c = w @ ((1 - rate)**2 * c + noise * rate**2 * np.diag(
          np.diag(c))) @ w.T
        last, c = np.trace(c), c / np.trace(c)
      self.assertAlmostEqual(
        topology.isotropic_rate(w, rate, noise), 1 - last, places=7)
    # Neighbors act as a batch: η = n/(n + M) is best, and removes as much.
    self.assertAlmostEqual(
      topology.isotropic_rate(topology.complete(8), 8 / 29, 21), 8 / 29)

  def test_connected(self):
    self.assertTrue(topology.is_connected(topology.check(topology.ring(9))))
    self.assertFalse(topology.is_connected(topology.check(np.eye(2))))
    self.assertFalse(topology.is_connected(
      topology.check_columns([[.5, 0], [.5, 1]])))  # one way alone
    bank = topology.one_peer_hypercube(8)
    self.assertTrue(topology.is_connected(bank))
    self.assertFalse(topology.is_connected(bank[:2]))

  def test_trees(self):
    for make in (topology.chain, topology.binary_tree):
      for n in (1, 2, 3, 7, 10):
        tree = make(n)
        self.assertEqual(tree.sum(), 2 * (n - 1))
        np.testing.assert_array_equal(tree, tree.T)
        reach = np.linalg.matrix_power(np.eye(n) + tree, n)
        self.assertTrue((reach > 0).all())

  def test_metropolis(self):
    chain = np.diag(np.ones(3), 1) + np.diag(np.ones(3), -1)
    w = topology.check(topology.metropolis(chain))[0]
    np.testing.assert_allclose(w[0], [2 / 3, 1 / 3, 0, 0])
    np.testing.assert_allclose(w[1], [1 / 3] * 3 + [0])


class SequencesTest(parameterized.TestCase):

  @parameterized.named_parameters(*SEQUENCES)
  def test_exact_after_one_round(self, make):
    for n in (1, 2, 4, 8, 16):
      bank = topology.check(make(n))
      np.testing.assert_allclose(product(bank), 1 / n, atol=1e-12)
      self.assertLessEqual((bank > 0).sum(2).max(), 2)
      self.assertAlmostEqual(topology.spectral_gap(bank), 1)

  @parameterized.parameters(1, 2, 3)
  def test_exact_for_any_number(self, degree):
    for n in (1, 2, 3, 5, 6, 7, 8, 11, 12, 23, 31):
      bank = topology.check(topology.finite_time(n, degree))
      np.testing.assert_allclose(product(bank), 1 / n, atol=1e-12)
      self.assertLessEqual((bank > 0).sum(2).max(), degree + 1)
      self.assertLessEqual(len(bank), 3 * np.log2(2 * n))

  @parameterized.parameters(8, 12, 5)
  def test_random_matchings(self, n):
    bank = topology.check(topology.random_matching(n, 3000, seed=1))
    for w in bank[:20]:
      np.testing.assert_allclose(w, w.T)
      self.assertLessEqual((w > 0).sum(1).max(), 2)
    if n % 2 == 0:
      x = np.random.default_rng(0).normal(size=n)
      x -= x.mean()
      seen = np.sum((bank @ x)**2, 1) / np.sum(x**2)
      error = seen.std(ddof=1) / np.sqrt(len(seen))
      self.assertLess(abs(seen.mean() - (n - 2) / (2 * (n - 1))), 4 * error)
    self.assertTrue((topology.random_matching(n, 2, seed=2)
                     != topology.random_matching(n, 2, seed=3)).any())

  @parameterized.parameters(3, 5, 8, 16)
  def test_random_rings(self, n):
    bank = topology.check(topology.random_ring(n, 3000, seed=1))
    for w in bank[:20]:
      np.testing.assert_allclose(w, w.T)
      np.testing.assert_allclose(np.diag(w), 1 / 3)
      # Same spectrum as the ring in order, so it is one ring through all.
      np.testing.assert_allclose(np.linalg.eigvalsh(w), np.linalg.eigvalsh(
        topology.ring(n)), atol=1e-12)
    x = np.random.default_rng(0).normal(size=n)
    x -= x.mean()
    seen = np.sum((bank @ x)**2, 1) / np.sum(x**2)
    error = seen.std(ddof=1) / np.sqrt(len(seen)) + 1e-12
    self.assertLess(abs(seen.mean() - (n - 3) / (3 * (n - 1))), 4 * error)
    if n > 3:
      self.assertTrue((topology.random_ring(n, 2, seed=2)
                       != topology.random_ring(n, 2, seed=3)).any())


class ArgumentsTest(parameterized.TestCase):

  @parameterized.parameters(
    (lambda: topology.ring(0), 'n=0'),
    (lambda: topology.hypercube(6), 'n=6'),
    (lambda: topology.one_peer_exponential(3), 'n=3'),
    (lambda: topology.torus(0, 3), 'rows=0'),
    (lambda: topology.finite_time(5, 0), 'max_degree=0'),
    (lambda: topology.random_matching(4, 0), 'count=0'),
    (lambda: topology.random_ring(0, 1), 'n=0'),
    (lambda: topology.random_ring(4, 0), 'count=0'),
    (lambda: topology.effective_neighbors(topology.ring(4), 1.), 'decay=1.0'),
    (lambda: topology.metropolis(np.triu(np.ones((3, 3)))), 'adjacency'),
    (lambda: topology.check(np.ones((3, 3)), 'name'), 'name is not doubly'),
    (lambda: topology.effective_neighbors(topology.exponential(8), .9),
     r'w of shape'),
    (lambda: topology.isotropic_rate(topology.one_peer_hypercube(8), .1, 9),
     r'w of shape'),
    (lambda: topology.least_eigenvalue(topology.exponential(8)), 'w of shape'),
    (lambda: topology.metropolis(np.ones(3)), r'shape \(3,\)'),
    (lambda: topology.circulant(0, ()), 'n=0'),
    (lambda: topology.chain(0), 'n=0'),
    (lambda: topology.binary_tree(-1), 'n=-1'),
    (lambda: topology.isotropic_rate(np.eye(2), -1., 1), 'learning_rate=-1.0'),
    (lambda: topology.isotropic_rate(np.eye(2), 1., -1), 'noise_ratio=-1'),
    (lambda: topology.check_columns(2 * np.eye(2)), 'w is not column'),
    (lambda: topology.check(np.ones((3, 2))), r'shape \(1, 3, 2\)'),
    (lambda: topology.check(2 * np.eye(2) - 1 / 2), 'w is not doubly'))
  def test_bad_arguments_are_refused(self, call, message):
    with self.assertRaisesRegex(ValueError, message):
      call()


if __name__ == '__main__':
  absltest.main()
