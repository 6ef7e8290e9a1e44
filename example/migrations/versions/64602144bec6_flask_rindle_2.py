"""flask-rindle 2

Revision ID: 64602144bec6
Revises: 08eefaddff18
Create Date: 2026-11-20 21:39:48.373850

"""
from alembic import op
import sqlalchemy as sa
from flask_rindle import migrations

# revision identifiers, used by Alembic.
revision = '64602144bec6'
down_revision = '08eefaddff18'
branch_labels = None
depends_on = None


def upgrade():
    migrations.upgrade(op, since=1, to=2)


def downgrade():
    migrations.downgrade(op, since=2, to=1)
