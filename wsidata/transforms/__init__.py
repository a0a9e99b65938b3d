"""Augmentations of large images as lazy libvips pipelines.

What is cropped away is never decoded. No other library has these right for large images: geometry that an image, its
masks and its points share, stains, any number format, one seeded generator per sample, a record that can be replayed.
`Compose` also takes albumentationsxl pipelines and plain functions.

    transform = Compose([CropOrPad(4096), RandomD4(), StainJitter(), Blur(p=0.2)])
    image = transform(image, np.random.default_rng(0))                                  # an image alone
    sample = transform.run(Sample(image, masks=(mask,), points=points), rng)            # all that shares its geometry
    Record.of(sample).to_json()                                                         # what was done
"""

from wsidata.transforms.adapters.functions import AlbumentationsXL as AlbumentationsXL
from wsidata.transforms.adapters.functions import FunctionTransform as FunctionTransform
from wsidata.transforms.adapters.functions import as_transform as as_transform
from wsidata.transforms.base import GigapixelWarning as GigapixelWarning
from wsidata.transforms.base import Operation as Operation
from wsidata.transforms.base import Sample as Sample
from wsidata.transforms.base import Transform as Transform
from wsidata.transforms.base import TransformError as TransformError
from wsidata.transforms.color.stain import StainJitter as StainJitter
from wsidata.transforms.color.stain_normalize import MACENKO_REFERENCE as MACENKO_REFERENCE
from wsidata.transforms.color.stain_normalize import BlankImageError as BlankImageError
from wsidata.transforms.color.stain_normalize import BlankPictureError as BlankPictureError
from wsidata.transforms.color.stain_normalize import ColorFit as ColorFit
from wsidata.transforms.color.stain_normalize import ColourFit as ColourFit
from wsidata.transforms.color.stain_normalize import MacenkoNormalise as MacenkoNormalise
from wsidata.transforms.color.stain_normalize import MacenkoNormalize as MacenkoNormalize
from wsidata.transforms.color.stain_normalize import ReinhardNormalise as ReinhardNormalise
from wsidata.transforms.color.stain_normalize import ReinhardNormalize as ReinhardNormalize
from wsidata.transforms.color.stain_normalize import StainFit as StainFit
from wsidata.transforms.color.stain_normalize import fit_macenko as fit_macenko
from wsidata.transforms.color.stain_normalize import fit_reinhard as fit_reinhard
from wsidata.transforms.color.tone import Blur as Blur
from wsidata.transforms.color.tone import ToneJitter as ToneJitter
from wsidata.transforms.compose import Compose as Compose
from wsidata.transforms.compose import OneOf as OneOf
from wsidata.transforms.compose import default_eval_transform as default_eval_transform
from wsidata.transforms.compose import default_train_transform as default_train_transform
from wsidata.transforms.compose import he_train_transform as he_train_transform
from wsidata.transforms.geometry.affine import RandomAffine as RandomAffine
from wsidata.transforms.geometry.affine import RandomD4 as RandomD4
from wsidata.transforms.geometry.affine import RandomHorizontalFlip as RandomHorizontalFlip
from wsidata.transforms.geometry.affine import RandomRotate90 as RandomRotate90
from wsidata.transforms.geometry.affine import RandomVerticalFlip as RandomVerticalFlip
from wsidata.transforms.geometry.affine import rot90 as rot90
from wsidata.transforms.geometry.crop import CropOrPad as CropOrPad
from wsidata.transforms.geometry.crop import RandomResizedCrop as RandomResizedCrop
from wsidata.transforms.geometry.crop import check_size as check_size
from wsidata.transforms.geometry.dropout import CoarseDropout as CoarseDropout
from wsidata.transforms.geometry.elastic import Elastic as Elastic
from wsidata.transforms.replay import Record as Record
