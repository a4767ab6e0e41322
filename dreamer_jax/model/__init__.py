"""The world model (Hafner et al. 2021, Section 2.1) as pure functions and Flax modules.

    rssm           the recurrent state-space model, one step and over time (Eq. 1): start here
    world_model    encoder, RSSM and predictors with their joint loss (Eq. 2)
    objectives     what trains the representation: reconstruction, contrastive, reward only
    kl             the KL loss: balanced (Algorithm 2) or plain
    latents        categorical and Gaussian latent variables behind one interface
    normalization  running statistics by which vectors are standardised
    distributions  distributions that sample from noise that is passed in
    networks       dense stacks, image encoder and decoder
    ops            fast convolutions and recurrences; no paper in there

May import types, errors, schema and runtime; no host packages.
"""
