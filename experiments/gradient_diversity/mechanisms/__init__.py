"""What masks, noise and rounding of gradients do, and what fewer bits cost.

Section 4.4 and Table 1 of the paper, on the embedded digits: some twelve
minutes on two CPU cores. Three questions, a figure each:

  bounds  How large is B_S of a network's gradients under each mechanism, and
          what do the formulas predict? Draws are tied to the example, fresh at
          each use, or shared by the batch.
  rounds  How many steps does a training accuracy take at each batch size? How
          long is that, where a step takes price + batch size / workers?
  bits    How accurate is a network that is trained with fewer bits on the wire?

Learning rates are tuned for each mechanism, strength, batch size and accuracy,
by the steps to that accuracy; for each wire, by the final training loss. The
paper does not say what a step costs on its cluster: we report all prices of
communication at which the best batch size of plain SGD is the paper's. Each
worker draws its own mask, or with --per_example each example does.
"""
