"""The agent: built from a config, as functions of one member, and mapped over many.

    agent       one member's `init`, `policy_step` and `train_step`: start here
    report      diagnostics and open-loop predictions of one member
    build       make an agent from a config
    members     vectorise and compile the functions for M members
    placement   where the arrays of the members lie: one device or a mesh of several
    guard       keep a member at its last finite state
    reference   import weights of the original TensorFlow implementation

May import behavior, config and all rooms before them; no host packages.
"""
