"""structdiff: diffusion models for structured data.

One diffusion core (a schedule, a process, a denoiser, a sampler), specialised per data type.
Time is a float in [0, 1]: 0 is data, 1 is noise.
"""

import pkgutil

__path__ = pkgutil.extend_path(__path__, __name__)
