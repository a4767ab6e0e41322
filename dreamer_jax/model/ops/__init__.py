"""Fast ways to compute what the networks are made of; no equation of a paper is in here.

    convolutions   the layer `Conv`, and FORMULATIONS, the three ways to compute one: start here
    matmul         a convolution, its transpose and its kernel's gradient as matmuls
    blocks         the same three operations as a CPU computes them fastest
    slices         the images of a batch in slices, which bound the memory
    activations    elementwise functions whose derivative is a function of their value
    recurrence     a scan whose kernel gradients are one matmul over all steps

Why not only `lax.conv`? Under `vmap`, members with weights of their own make a grouped convolution,
whose gradients XLA computes slowly; and on a CPU XLA is slow at all gradients of convolutions.

How a convolution becomes matmuls: im2col copies every k x k patch into a row and multiplies all
rows by the flat kernel, which needs k^2 / stride^2 times the images' memory. Here space-to-depth
first makes channels of each stride x stride block of pixels. What remains has stride 1 and a kernel
of k / stride taps along each axis, and each tap multiplies a shifted window of the blocks:

    y = sum_taps shift(blocks, tap) @ kernel[tap]          matmul.correlate
    x += shift_back(y @ kernel[tap]^T, tap)                matmul.scatter, its transpose
    dkernel[tap] = shift(blocks, tap)^T @ dy               matmul.kernel_grad

So nothing larger than one window is unfolded, except where a tap has so few channels that a matmul
for each would not pay. The forward and backward passes of a layer and of its transpose are these
three operations (`convolutions.from_operations`), written as a `custom_vjp` because autodiff would
keep every unfolded window. On a CPU, `blocks` leaves the first two to XLA's convolutions, the
transpose as one with stride 1, which need no unfolding.

`Backend` (runtime.py) picks the formulation and the size of a slice; docs/performance.md has the
measured gains ("Choices"). May import types, errors and runtime.
"""
