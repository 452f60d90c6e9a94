"""Networks: one definition per architecture, real or rotation-equivariant by a kit of layers."""
