"""flask-rindle 3

Revision ID: 3b1c70d5e9a4
Revises: 64602144bec6
Create Date: 2026-11-21 00:52:10.114032

"""
from alembic import op
import sqlalchemy as sa
from flask_rindle import migrations

# revision identifiers, used by Alembic.
revision = '3b1c70d5e9a4'
down_revision = '64602144bec6'
branch_labels = None
depends_on = None


def upgrade():
    migrations.upgrade(op, since=2, to=3)


def downgrade():
    migrations.downgrade(op, since=3, to=2)
