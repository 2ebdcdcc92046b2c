"""U-Nets of well-known papers, as arguments of the one U-Net.

Each gives what makes the network, see `FieldNetwork`; `partial(ncsn_plus_plus(), blocks=1)` is
another one. No network has a table of times: its condition is features of a real clock. What a
paper does to the input and the output (for NCSN++ the score is the output over sigma) is the
process' parameterisation; here it is `Noise`.

References:
    Score-Based Generative Modeling through Stochastic Differential Equations (Song et al., 2021),
    appendix H. https://arxiv.org/abs/2011.13456
    Diffusion Models Beat GANs on Image Synthesis (Dhariwal and Nichol, 2021), section 3 and tables
    4 and 11. https://arxiv.org/abs/2105.05233
"""

from __future__ import annotations

from functools import partial

from structdiff.nn.resampling import SMOOTH
from structdiff.nn.unet import UNet

__all__ = ["adm", "ddpm_plus_plus", "ncsn_plus_plus"]

_HEAD = 64
_ADM = {
    32: (1, 2, 2, 2),
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
}
_ATTENDED = (32, 16, 8)


def ddpm_plus_plus(width: int = 128, blocks: int = 4) -> partial[UNet]:
    """DDPM++: BigGAN blocks and sums over sqrt 2, for processes that preserve the variance.

    Arguments:
        width: Channels at level 0.
        blocks: Stages of a level; 8 for the deep one.

    Example:
        >>> network = ddpm_plus_plus(8, 1)(3, 3, condition=4)
        >>> len(network.down)
        4
    """
    return partial(
        UNet,
        width=width,
        multipliers=(1, 2, 2, 2),
        blocks=blocks,
        attention=(1,),
        heads=1,
        resampling="block",
        rescale=True,
        dropout=0.1,
    )


def ncsn_plus_plus(width: int = 128, blocks: int = 4) -> partial[UNet]:
    """NCSN++: DDPM++ with a smooth filter and the input at every level; for growing variance.

    Arguments:
        width: Channels at level 0.
        blocks: Stages of a level; 8 for the deep one.

    Example:
        >>> network = ncsn_plus_plus(8, 1)(3, 3, condition=4)
        >>> len(network.pyramid)
        3
    """
    return partial(ddpm_plus_plus(width, blocks), taps=SMOOTH, progressive=True)


def adm(size: int, width: int = 192, blocks: int = 3, dropout: float = 0.1) -> partial[UNet]:
    """ADM: BigGAN blocks and attention with 64 entries a head at 32, 16 and 8 places.

    Arguments:
        size: Places of a side of the image: 32, 64, 128 or 256.
        width: Channels at level 0, a multiple of 64.
        blocks: Stages of a level: 3 for 64 places, else 2.
        dropout: Share of the entries that residual blocks drop.

    Raises:
        ValueError: If the size or the width is another one.

    Example:
        >>> adm(64).keywords["heads"]
        [3, 6, 9, 12]
    """
    if size not in _ADM or width < _HEAD or width % _HEAD:
        given = f"got size = {size} and width = {width}"
        msg = f"size must be one of {list(_ADM)} and width a multiple of {_HEAD}, {given}"
        raise ValueError(f"{msg}: give UNet its multipliers and heads for others")
    multipliers = _ADM[size]
    return partial(
        UNet,
        width=width,
        multipliers=multipliers,
        blocks=blocks,
        attention=[level for level in range(len(multipliers)) if size >> level in _ATTENDED],
        heads=[width * multiplier // _HEAD for multiplier in multipliers],
        resampling="block",
        dropout=dropout,
    )
