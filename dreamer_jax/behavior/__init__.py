"""Behaviours: how actions are chosen, and how that is learned inside the world model.

base             the interface of behaviours, and the registries of them
actor_critic     actor and critic: policies, imagined rollouts, losses
dreamer          the behaviour of DreamerV1 and V2: an actor and a critic
planet           the behaviour of PlaNet: planning by the cross-entropy method
plan2explore     an explorer that seeks what the world model cannot predict
exploration      noise on the actions taken in training
imagination      trajectories of a policy inside the world model
returns          lambda-returns, weights and schedules, as functions of arrays

The room is pure: it imports only `types`, `schema`, `errors`, `optimizer` and `model`. Every module
in it is imported for the pieces that it registers. Start with actor_critic.
"""
