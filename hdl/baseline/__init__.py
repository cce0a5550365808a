"""What the accelerator's units are compared with. No part of the accelerator."""
