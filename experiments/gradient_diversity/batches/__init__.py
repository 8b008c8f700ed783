"""How gradient diversity limits the batch size of a real network.

On the embedded digits: about three minutes on two CPU cores. Of the training
set a random 1/r is kept and repeated r times, which lowers its diversity
(section 6 of the paper), and mini-batch SGD is tuned for each batch size and r.
Four questions, a figure each:

  collapse    How many gradients does a target loss take at each batch size,
              and what does the measured noise scale predict?
  loss_ratio  After equal numbers of passes, how much higher is the loss of
              large batches than of the smallest? (their Figure 2)
  diversity   How large is B_S along the training: exactly, over the whole set,
              and as the workers estimate it from their gradients?
  stability   How far apart do two runs end whose training sets differ in one
              example? (their Figure 3)

The paper leaves open, and we choose: sampling with replacement (its equation
2), plain SGD, and a learning rate on the *mean* gradient from a grid, tuned
for each batch size and r by what the figure shows.
"""
