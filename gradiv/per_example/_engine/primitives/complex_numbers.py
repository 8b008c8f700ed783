"""Complex numbers: a part of a complex product is a real product.

Going back from a real gradient, complex values begin at a real or imaginary
part, and end at products u ⊗ v with, in a spectral layer, complex factors:

  Re(u ⊗ v)  =  Re u ⊗ Re v  −  Im u ⊗ Im v
  Im(u ⊗ v)  =  Re u ⊗ Im v  +  Im u ⊗ Re v

so that each position k becomes two. What lies between must commute with taking
a part, as reshapes do; conjugates and complex numbers go into the factors.
"""

import dataclasses

import jax.numpy as jnp
from jax import lax

from gradiv.per_example._engine import registry
from gradiv.per_example._engine.linear import LinearOp
from gradiv.per_example._engine.terms import Term
from gradiv.per_example._engine.values import Value


def terms_of_part(cutter, value: Value, name: str) -> list[Term]:
  """Return the terms of the real or the imaginary part of a value.

  Args:
    cutter: The cutter.
    value: A complex value.
    name: 'real' or 'imag'.
  """
  return [_part(cutter.program, term, name) for term in cutter.follow(value)]


def _part(program, term, name):
  inner = [op for op in term.ops if op.is_isometric and not _is_cast(op)]
  folded = [op for op in term.ops if op.name in ('times', 'conj')]
  others = len(term.ops) - len(inner) - len(folded) - sum(
    map(_is_cast, term.ops))
  if term.product is None or others:
    return term.then(LinearOp(name, None, getattr(jnp, name), (), False))
  product, scalars = term.product, term.operands[len(term.product.operands):]
  operands = tuple(_without_cast(program, x) for x in product.operands)
  is_complex = [jnp.issubdtype(program.shape_and_dtype(x)[1],
                               jnp.complexfloating) for x in operands]
  z, k, a, b = product.sizes
  copies = 2 if len(is_complex) == 2 and all(is_complex) else 1

  def make_factors(*arrays):
    u, v = product.make_factors(*arrays)
    number = 1
    for op in folded:
      if op.name == 'conj':
        number, v = jnp.conj(number), jnp.conj(v)
        u = jnp.conj(u) if copies == 2 or is_complex[0] else u
      else:
        number = number * op.key
    return _parts(u, v * number, name)

  real = product._replace(
    operands=operands, make_factors=make_factors, sizes=(z, copies * k, a, b),
    num_extra=copies * product.num_extra, add_up=None)
  return dataclasses.replace(
    term, product=real, operands=(*operands, *scalars), ops=tuple(inner),
    dtype=jnp.finfo(term.dtype).dtype)


def _parts(u, v, name):
  """Make the real factors of a part of u ⊗ v, of which v may be complex."""
  if not jnp.iscomplexobj(v):  # as it is then multiplied by a real number
    part = getattr(jnp, name)
    return (part(u), v) if jnp.iscomplexobj(u) else (u, part(v))
  if not hasattr(u, 'dtype') or not jnp.iscomplexobj(u):
    return u, getattr(jnp, name)(v)
  x, y = jnp.real(u), jnp.imag(u)
  first, second = ((jnp.real(v), -jnp.imag(v)) if name == 'real'
                   else (jnp.imag(v), jnp.real(v)))
  return jnp.concatenate([x, y], 1), jnp.concatenate([first, second], 1)


def _is_cast(op):
  return op.name == 'convert_element_type' and op.key.startswith('complex')


def _without_cast(program, value):
  """Return the real value that a complex one was made of, if it was."""
  made = program.made_by(value) if isinstance(value, Value) else None
  if made is not None and made.name == 'convert_element_type' and (
      jnp.issubdtype(made.ins[0].aval.dtype, jnp.floating)):
    return made.ins[0]
  return value


def _terms(cutter, equation, out):
  del out
  return terms_of_part(cutter, equation.ins[0], equation.name)


def _terms_of_complex(cutter, equation, out):
  """See x + iy as a sum of two terms."""
  del out
  (x, y), dtype = equation.ins, equation.outs[0].aval.dtype
  cast = LinearOp('convert_element_type', str(dtype),
                  lambda x: x.astype(dtype))
  return [*(term.then(cast) for term in cutter.follow(x)),
          *(term.then(cast).then(1j) for term in cutter.follow(y))]


def _conjugate(program, equation, place):
  del program, place
  dtype = equation.outs[0].aval.dtype
  return LinearOp('conj', None, lambda x: lax.conj(x).astype(dtype),
                  is_isometric=False)


registry.register('real', 'imag', terms=_terms, keeps_zero=True)
registry.register('complex', terms=_terms_of_complex)
registry.register('conj', linear=_conjugate, keeps_zero=True)
