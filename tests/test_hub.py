"""mmengine's hub finds this package's configs and builds its models."""

from mmengine.hub import get_config, get_model

from mmsolov2.models import SeparateMaskFeatureNeck, SOLOv2


def test_config_and_the_address_of_its_weights():
    config = get_config('mmsolov2::solov2/solov2_r50_fpn_1x_coco.py', pretrained=True)
    assert config.model.type == 'mmsolov2.SOLOv2'
    assert config.model_path.endswith('/solov2_r50_fpn_1x_coco_20220512_125858-a357fa23.pth')


def test_model():
    model = get_model('mmsolov2::ablations/solov2_r50_fpn_ms-3x_features-separate_coco.py')
    assert type(model) is SOLOv2 and type(model.mask_neck) is SeparateMaskFeatureNeck
